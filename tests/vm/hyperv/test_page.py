"""The hypercall page, byte by byte: its ports are in the memory of every guest that runs."""

from dynmem.vm.hyperv.page import CALL_OFFSET, CALL_PORT, PAGE, PROTECTED_PAGE, SIGNAL_OFFSET, SIGNAL_PORT

LONG = bytes.fromhex("f30f1efa 4881f95d000100 7514 4889d0 48c1e820 750b 89d0 4531c9 e7e0 4489c8 c3 e6e4 c3")


def test_the_page_is_the_one_that_stock_kernels_ran() -> None:
    assert LONG + b"\xcc" * (4096 - len(LONG)) == PAGE


def test_each_out_is_where_its_port_is_looked_for() -> None:
    assert PAGE[SIGNAL_OFFSET:][:2] == bytes((0xE7, SIGNAL_PORT))
    for page in (PAGE, PROTECTED_PAGE):
        assert page[CALL_OFFSET:][:3] == bytes((0xE6, CALL_PORT, 0xC3))


def test_every_branch_of_the_page_lands_on_the_call() -> None:
    jumps = [at for at in range(SIGNAL_OFFSET) if PAGE[at] == 0x75]
    assert [at + 2 + PAGE[at + 1] for at in jumps] == [CALL_OFFSET, CALL_OFFSET]
    assert PROTECTED_PAGE[:4] == bytes.fromhex("f30f1efb")
    assert PROTECTED_PAGE[4] == 0xEB
    assert 6 + PROTECTED_PAGE[5] == CALL_OFFSET
