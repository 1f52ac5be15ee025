"""The sdist and the wheel are built once for all tests of packages."""

import pytest
from tests.packages.made import EPOCH, Made

from scripts import dist


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
        built = dist.commit()
        return Made(*dist.python_packages(tmp_path_factory.mktemp("dist"), built), built)
