"""Elements as text. Whatever is not markup already is escaped, so no name of a model can become an element."""

from __future__ import annotations

from html import escape

_VOID = {"input"}


class Html(str):
    """Text that is markup."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element. `class_` is `class`, `stroke_width` is `stroke-width`; what is None is left out."""
    given = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    head = "".join(f' {key}="{escape(str(value))}"' for key, value in given)
    return Html(f"<{name}{head}>" if name in _VOID else f"<{name}{head}>{join(*children)}</{name}>")


def join(*children: object) -> Html:
    """Siblings."""
    return Html("".join(_text(child) for child in children if child is not None))


def _text(child: object) -> str:
    return child if isinstance(child, Html) else escape(str(child))
