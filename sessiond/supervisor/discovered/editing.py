"""Labels, annotations and the group of a conversation: checked, then changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sessiond.errors import InvalidArgument
from sessiond.model.agent_session import Overlay
from sessiond.model.identity import check_annotation, check_count, check_key, check_label, check_name


@dataclass(frozen=True, slots=True)
class Edit:
    """What is to change; ``group`` None keeps, empty takes out."""

    set_labels: Mapping[str, str] = field(default_factory=dict)
    remove_labels: Sequence[str] = ()
    set_annotations: Mapping[str, str] = field(default_factory=dict)
    remove_annotations: Sequence[str] = ()
    group: str | None = None


def editing(edit: Edit) -> Callable[[Overlay], Overlay]:
    """What carries out an edit. Raises InvalidArgument `label_missing` where nothing is to change,
    `label_invalid`, `annotation_invalid`, `group_invalid`; what it returns raises for too many of them."""
    pairs = edit.set_labels, edit.remove_labels, edit.set_annotations, edit.remove_annotations
    if not any(pairs) and edit.group is None:
        raise InvalidArgument(
            "label_missing", "nothing is to be changed", hint="give labels, annotations or a group"
        )
    for key, value in edit.set_labels.items():
        check_label(key, value)
    for key, value in edit.set_annotations.items():
        check_annotation(key, value)
    for key in (*edit.remove_labels, *edit.remove_annotations):
        check_key(key)
    both = edit.set_labels.keys() & set(edit.remove_labels)
    both |= edit.set_annotations.keys() & set(edit.remove_annotations)
    if both:
        raise InvalidArgument(
            "label_invalid",
            f"{sorted(both)[0]} is to be set and removed at once",
            hint="do one of them",
        )
    if edit.group:
        check_group(edit.group)

    def change(before: Overlay) -> Overlay:
        labels = _merged(before.labels, edit.set_labels, edit.remove_labels)
        annotations = _merged(before.annotations, edit.set_annotations, edit.remove_annotations)
        group = before.group if edit.group is None else edit.group
        return replace(before, labels=labels, annotations=annotations, group=group)

    return change


def check_group(group: str) -> None:
    """Raise InvalidArgument `group_invalid` unless the word can be a group's name."""
    try:
        check_name(group, "a group's name")
    except InvalidArgument as error:
        raise InvalidArgument(
            "group_invalid", error.message, hint=error.hint, fields={"group": group[:80]}
        ) from error


def _merged(held: Mapping[str, str], add: Mapping[str, str], remove: Sequence[str]) -> dict[str, str]:
    pairs = {key: value for key, value in {**held, **add}.items() if key not in remove}
    check_count(len(pairs))
    return pairs
