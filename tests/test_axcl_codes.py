"""What the runtime's numbers mean, and which of them mean that the card is lost."""

import pytest

from edge_llm.errors import DeviceError, DeviceLostError
from edge_llm.npu.axcl_codes import error_in, error_of, is_fatal, name_of


@pytest.mark.parametrize(
    ("code", "name", "fatal"),
    [
        (0x80300181, "DEVICE_NO_CONNECT", True),
        (0x80300186, "DEVICE_PORT_ALLOCATE", True),
        (0x8030010B, "DEVICE_OPEN", True),
        (0x80300284, "CONTEXT_NO_BIND_CONTEXT", False),
        (0x80300305, "STREAM_TIMEOUT", True),
        (0x80300383, "STREAM_SYNC_TIMEOUT", True),
        (0x8030050A, "MEMORY_UNEXPECTED_RESPONSE", True),
        (0x8030050C, "MEMORY_EXECUTE_FAIL", False),
        (0x80300581, "MEMORY_NOT_DEVICE_MEMORY", False),
        (0x80300708, "ENGINE_ENCODE", True),
        (0x8030070C, "ENGINE_EXECUTE_FAIL", False),
        (0x80060105, "NPU_ENGINE", False),
    ],
)
def test_codes_have_names_and_some_are_fatal(code: int, name: str, fatal: bool) -> None:
    assert name_of(code) == name
    assert is_fatal(code) is fatal


def test_an_error_says_what_failed_with_which_code_and_what_to_do() -> None:
    error = error_of("axclrtEngineExecute", 0x80300181 - 2**32)  # as the runtime returns it
    assert isinstance(error, DeviceLostError)
    assert error.device_code == 0x80300181
    assert "axclrtEngineExecute failed: 0x80300181 DEVICE_NO_CONNECT; " in error.message


def test_codes_are_found_in_what_other_libraries_say() -> None:
    assert error_in("axclrtEngineExecute failed 0x80300181").is_lost
    error = error_in("failed 0x8030070C")
    assert type(error) is DeviceError
    assert error.device_code == 0x8030070C
    assert error_in("no idea").device_code == 0
