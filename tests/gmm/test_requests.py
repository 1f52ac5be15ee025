"""Request buffers: the layouts of the original, any values there and back, and forged ones refused."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.gmm import GmmError, Status
from dynmem.gmm.requests import REQUEST_BYTES_MAX, SHAPES, Operation, Request, new_request, parse

# operation: (bytes without the array, bytes of an element, field: offset), for a 64-bit host
BUFFERS: dict[Operation, tuple[int, int, dict[str, int]]] = {
    Operation.INITIAL_RESERVATION: (
        32,
        0,
        {"cBasePages": 8, "cShadowPages": 16, "cFixedPages": 20, "enmPolicy": 24, "enmPriority": 28},
    ),
    Operation.UPDATE_RESERVATION: (24, 0, {"cBasePages": 8, "cShadowPages": 16, "cFixedPages": 20}),
    Operation.ALLOCATE_PAGES: (16, 16, {"enmAccount": 8, "cPages": 12}),
    Operation.FREE_PAGES: (16, 4, {"enmAccount": 8, "cPages": 12}),
    Operation.FREE_LARGE_PAGE: (12, 0, {"idPage": 8}),
    Operation.QUERY_HYPERVISOR_MEM_STATS: (
        48,
        0,
        {"cAllocPages": 8, "cFreePages": 16, "cBalloonedPages": 24, "cSharedPages": 32, "cMaxPages": 40},
    ),
    Operation.QUERY_MEM_STATS: (
        48,
        0,
        {"cAllocPages": 8, "cFreePages": 16, "cBalloonedPages": 24, "cSharedPages": 32, "cMaxPages": 40},
    ),
    Operation.BALLOONED_PAGES: (16, 0, {"cBalloonedPages": 8, "enmAction": 12}),
    Operation.MAP_UNMAP_CHUNK: (24, 0, {"idChunkMap": 8, "idChunkUnmap": 12, "pvR3": 16}),
    Operation.REGISTER_SHARED_MODULE: (
        176,
        16,
        {
            "cbModule": 8,
            "cRegions": 12,
            "GCBaseAddr": 16,
            "enmGuestOS": 24,
            "rc": 28,
            "szName": 32,
            "szVersion": 160,
        },
    ),
    Operation.UNREGISTER_SHARED_MODULE: (
        168,
        0,
        {"cbModule": 8, "u32Alignment": 12, "GCBaseAddr": 16, "szName": 24, "szVersion": 152},
    ),
    Operation.FIND_DUPLICATE_PAGE: (16, 0, {"idPage": 8, "fDuplicate": 12}),
    Operation.QUERY_STATISTICS: (216, 0, {"pSession": 8, "Stats": 16}),
    Operation.RESET_STATISTICS: (216, 0, {"pSession": 8, "Stats": 16}),
}
HEADER = {"Hdr": 0}


def filled(operation: Operation, values: st.DataObject) -> Request:
    """Return a request with any value in each field and each byte of its array."""
    shape = SHAPES[operation]
    count = values.draw(st.integers(0, 40)) if shape.array is not None else 0
    request = new_request(operation, count)
    for field in request:
        kind = shape.fields[field]
        if field != shape.length and kind.kind in "iu":
            limits = np.iinfo(kind)
            request[field] = values.draw(st.integers(int(limits.min), int(limits.max)))
        elif kind.kind == "S":
            request[field] = values.draw(st.binary(max_size=kind.itemsize - 1))
        elif kind.kind == "b":
            request[field] = values.draw(st.integers(0, 1))
    if count:
        size = request.array.nbytes
        request.array.view(np.uint8)[:] = list(values.draw(st.binary(min_size=size, max_size=size)))
    return request


def read(operation: int, data: bytes) -> Request | GmmError:
    """Return the request in *data*, or why it is refused."""
    try:
        return parse(operation, data)
    except GmmError as error:
        return error


@pytest.mark.parametrize("operation", BUFFERS, ids=lambda operation: operation.name)
def test_a_request_has_the_size_and_its_fields_the_places_of_the_original(operation: Operation) -> None:
    size, element, offsets = BUFFERS[operation]
    shape = SHAPES[operation]
    assert shape.fields.itemsize == size
    assert (0 if shape.array is None else shape.array.itemsize) == element
    assert shape.fields.fields is not None
    assert {field: place[1] for field, place in shape.fields.fields.items()} == HEADER | offsets


def test_the_operations_have_the_names_and_numbers_of_the_original() -> None:
    names = """INITIAL_RESERVATION UPDATE_RESERVATION ALLOCATE_PAGES FREE_PAGES FREE_LARGE_PAGE
    QUERY_HYPERVISOR_MEM_STATS QUERY_MEM_STATS BALLOONED_PAGES MAP_UNMAP_CHUNK SEED_CHUNK
    REGISTER_SHARED_MODULE UNREGISTER_SHARED_MODULE RESET_SHARED_MODULES CHECK_SHARED_MODULES
    FIND_DUPLICATE_PAGE QUERY_STATISTICS RESET_STATISTICS"""
    assert {operation.symbol: operation.value for operation in Operation} == {
        f"VMMR0_DO_GMM_{name}": 256 + place for place, name in enumerate(names.split())
    }


def test_the_requests_are_thirteen_structures() -> None:
    assert BUFFERS.keys() == SHAPES.keys()
    # the two questions for memory statistics share one
    assert len(SHAPES) - 1 == 13
    assert SHAPES[Operation.QUERY_MEM_STATS] is not None


@pytest.mark.parametrize("operation", SHAPES, ids=lambda operation: operation.name)
def test_every_request_begins_with_the_header_that_names_its_mark_and_its_size(operation: Operation) -> None:
    data = new_request(operation, 3 if SHAPES[operation].array is not None else 0).encode()
    assert data[:4] == b"\x11\x02\x73\x19"
    assert int.from_bytes(data[4:8], "little") == len(data)


@given(values=st.data(), operation=st.sampled_from([*SHAPES]))
def test_any_request_survives_the_way_there(values: st.DataObject, operation: Operation) -> None:
    request = filled(operation, values)
    arrived = parse(operation, request.encode())
    assert arrived.operation is operation
    assert arrived.encode() == request.encode()
    assert (arrived.array == request.array).all()
    for field in request:
        kind = SHAPES[operation].fields[field].kind
        if kind == "S":
            assert arrived.text(field) == request.text(field)
        elif kind != "V":
            assert arrived[field] == request[field]


@given(data=st.binary(max_size=400), operation=st.integers(250, 280))
def test_whatever_arrives_only_a_gmm_error_comes_out(data: bytes, operation: int) -> None:
    arrived = read(operation, data)
    if isinstance(arrived, GmmError):
        assert arrived.code in (Status.INVALID_PARAMETER, Status.NOT_SUPPORTED)
    else:
        assert arrived.encode() == data


@given(values=st.data(), operation=st.sampled_from([*SHAPES]))
def test_a_request_with_changed_bytes_is_read_as_it_is_or_refused(
    values: st.DataObject, operation: Operation
) -> None:
    data = bytearray(filled(operation, values).encode())
    for _ in range(values.draw(st.integers(1, 4))):
        data[values.draw(st.integers(0, len(data) - 1))] = values.draw(st.integers(0, 255))
    del data[values.draw(st.integers(0, len(data))) :]
    arrived = read(operation, bytes(data))
    if isinstance(arrived, GmmError):
        assert arrived.code is Status.INVALID_PARAMETER
    else:
        assert arrived.encode() == data


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ((0, 0x12), "begins with 0x19730212 instead of 0x19730211"),
        ((4, 47), "says that it is 47 bytes long and is 48"),
        ((12, 3), "says that it has 3 elements and is 48 bytes long"),
        ((15, 0xFF), "says that it has 4278190082 elements and is 48 bytes long"),
    ],
)
def test_a_forged_header_or_count_is_refused_with_what_is_wrong(
    change: tuple[int, int], sentence: str
) -> None:
    data = bytearray(new_request(Operation.ALLOCATE_PAGES, 2).encode())
    data[change[0]] = change[1]
    with pytest.raises(GmmError, match=sentence) as refused:
        parse(Operation.ALLOCATE_PAGES, bytes(data))
    assert refused.value.code is Status.INVALID_PARAMETER


def test_a_count_cannot_take_more_memory_than_the_bytes_that_came() -> None:
    forged = bytearray(new_request(Operation.FREE_PAGES, 2).encode())
    forged[12:16] = (2**32 - 1).to_bytes(4, "little")
    tracemalloc.start()
    try:
        with pytest.raises(GmmError):
            parse(Operation.FREE_PAGES, bytes(forged))
        of_forged = tracemalloc.get_traced_memory()[1]
        honest = new_request(Operation.FREE_PAGES, 10_000).encode()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        parse(Operation.FREE_PAGES, honest)
        of_honest = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert of_forged < 20_000
    assert of_honest < 4 * len(honest)


def test_an_operation_that_does_not_exist_is_not_supported() -> None:
    for operation in (0, 255, 273, -1, 2**40):
        with pytest.raises(GmmError, match="does not exist") as refused:
            parse(operation, b"")
        assert refused.value.code is Status.NOT_SUPPORTED


def test_an_operation_without_a_buffer_takes_none() -> None:
    assert parse(Operation.CHECK_SHARED_MODULES, b"").encode() == b""
    with pytest.raises(GmmError, match="is 1 bytes long, not 0"):
        parse(Operation.CHECK_SHARED_MODULES, b"\0")


@pytest.mark.parametrize(
    ("field", "value"),
    [("cbModule", -1), ("cbModule", 2**32), ("GCBaseAddr", 2**64), ("szName", b"n" * 128), ("szName", 7)],
)
def test_a_value_that_its_field_cannot_hold_is_refused_and_never_cut(field: str, value: int | bytes) -> None:
    request = new_request(Operation.REGISTER_SHARED_MODULE)
    with pytest.raises(GmmError, match=field) as refused:
        request[field] = value
    assert refused.value.code is Status.INVALID_PARAMETER
    assert request.encode() == new_request(Operation.REGISTER_SHARED_MODULE).encode()


@pytest.mark.parametrize(("operation", "count"), [(258, -1), (258, 2**20), (257, 1), (268, 1)])
def test_a_request_for_more_elements_than_a_call_takes_is_not_made(operation: int, count: int) -> None:
    with pytest.raises(GmmError, match=f"{count} elements do not fit"):
        new_request(Operation(operation), count)


def test_the_longest_request_is_an_allocation_of_the_most_pages() -> None:
    assert REQUEST_BYTES_MAX == 16 + (2**20 - 1) * 16
