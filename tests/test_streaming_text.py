"""The text that grows from small pieces: whole, its tail, and what it holds."""

import tracemalloc

import pytest

from blueprint_llm.streaming.document import Text


@pytest.mark.parametrize(
    "pieces", [[], ["a"], ["a"] * 5000, [f"word{n} " for n in range(2000)], ["x" * 700, "yz"] * 90]
)
def test_a_text_is_its_pieces(pieces):
    """The whole, and a tail of any length, at any moment."""
    text, whole = Text(), ""
    for number, piece in enumerate(pieces):
        text.add(piece)
        whole += piece
        if number % 97 == 0:
            for chars in (1, 40, 400, 6000):
                assert text.tail(chars) == whole[-chars:]

    assert (text.value(), text.length) == (whole, len(whole))
    assert text.tail(400) == whole[-400:]


def test_a_text_takes_little_more_room_than_its_letters():
    """Short pieces are not kept each for itself, which takes five times the room."""
    tracemalloc.start()
    try:
        text = Text()
        for number in range(2015):
            text.add(f"word{number} ")
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert held < 1.6 * text.length
