"""What a teacher that is another model asks of the feed."""

from __future__ import annotations

from core.contracts import Model, Preparation, PreparesItsOwn, Teacher


def teacher_preparation(teacher: Teacher | None, model: Model) -> Preparation | None:
    """The preparation by which the feed makes ``RegionBatch.for_teacher``; None where the student's serves for both."""
    if not isinstance(teacher, PreparesItsOwn) or teacher.preparation == model.preparation:
        return None
    return teacher.preparation
