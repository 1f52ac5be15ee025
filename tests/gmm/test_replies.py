"""Replies: status, outputs and sentence there and back, and forged ones refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.gmm import GmmError, Status
from dynmem.gmm.replies import REPLY_EXTRA_BYTES_MAX, Reply, parse_reply
from dynmem.gmm.requests import SHAPES, Operation, new_request


def read(operation: Operation, data: bytes) -> Reply | GmmError:
    """Return the reply in *data*, or why it is refused."""
    try:
        return parse_reply(operation, data)
    except GmmError as error:
        return error


@given(
    operation=st.sampled_from([*SHAPES]),
    status=st.sampled_from([*Status]),
    sentence=st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
)
def test_any_reply_survives_the_way_back(operation: Operation, status: Status, sentence: str) -> None:
    request = new_request(operation, 2 if SHAPES[operation].array is not None else 0)
    arrived = parse_reply(operation, Reply(status, request, sentence).encode())
    assert (arrived.status, arrived.sentence) == (status, sentence)
    assert arrived.request is not None
    assert arrived.request.encode() == request.encode()


def test_the_outputs_of_a_failed_call_are_its_error_with_the_sentence() -> None:
    request = new_request(Operation.FREE_PAGES, 2)
    with pytest.raises(GmmError, match="page 7 belongs to b") as refused:
        Reply(Status.NOT_PAGE_OWNER, request, "page 7 belongs to b").outputs()
    assert refused.value.code is Status.NOT_PAGE_OWNER


def test_a_success_that_is_no_error_has_outputs() -> None:
    request = new_request(Operation.REGISTER_SHARED_MODULE)
    assert Reply(Status.SHARED_MODULE_ALREADY_REGISTERED, request).outputs() is request


def test_a_sentence_is_cut_so_that_a_reply_has_a_greatest_length() -> None:
    request = new_request(Operation.FREE_LARGE_PAGE)
    data = Reply(Status.PAGE_NOT_FOUND, request, "long " * 1000).encode()
    assert len(data) == len(request.encode()) + REPLY_EXTRA_BYTES_MAX
    assert parse_reply(Operation.FREE_LARGE_PAGE, data).sentence.startswith("long long")


@given(operation=st.sampled_from([*Operation]), data=st.binary(max_size=80))
def test_whatever_comes_back_only_a_gmm_error_comes_out(operation: Operation, data: bytes) -> None:
    arrived = read(operation, data)
    assert isinstance(arrived, GmmError) or arrived.encode()[:8] == data[:8]


@given(
    values=st.data(), operation=st.sampled_from([*Operation]), status=st.sampled_from([0, -2, -3806, 3827, 1])
)
def test_a_reply_with_changed_bytes_is_a_reply_or_a_gmm_error(
    values: st.DataObject, operation: Operation, status: int
) -> None:
    data = bytearray(Reply(Status.SUCCESS, new_request(operation), "why").encode())
    data[:4] = status.to_bytes(4, "little", signed=True)
    data[values.draw(st.integers(4, len(data) - 1))] = values.draw(st.integers(0, 255))
    arrived = read(operation, bytes(data))
    if isinstance(arrived, GmmError):
        assert arrived.code is Status.INVALID_PARAMETER
    else:
        assert arrived.status == status


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"\0" * 7, "7 bytes long"),
        (b"\1\0\0\0\0\0\0\0", "unknown status 1"),
        (b"\0\0\0\0\xff\xff\xff\xff", "4294967295 bytes long, and 0 follow"),
        (b"\0\0\0\0\0\0\0\0" + b"x" * 1025, "0 bytes long, and 1025 follow"),
        (b"\0\0\0\0\0\0\0\0", "is 0 bytes long, not 12"),
    ],
)
def test_bytes_that_are_not_a_reply_are_refused_with_what_is_wrong(data: bytes, sentence: str) -> None:
    with pytest.raises(GmmError, match=sentence) as refused:
        parse_reply(Operation.FREE_LARGE_PAGE, data)
    assert refused.value.code is Status.INVALID_PARAMETER
