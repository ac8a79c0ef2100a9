from __future__ import annotations

from core.testing import TeacherKit, TinyModel
from core.testing.tiny_model import regions

from template_name import TemplateName


class TestTemplateName(TeacherKit):
    def make(self) -> TemplateName:
        return TemplateName()

    def test_says_bright_or_dark_without_the_turns_end(self) -> None:
        model = TinyModel()
        batch = model.preparation.collate(regions())
        for threshold, text in ((0.0, "a bright region"), (1.0, "a dark region")):
            tokens = TemplateName(threshold=threshold).captions(model, model.encode(batch), batch, 30)
            assert model.decode(tokens) == [text] * len(batch)
            assert int(tokens.mask.sum()) == len(text) * len(batch)
        cut = TemplateName().captions(model, model.encode(batch), batch, 4)
        assert cut.ids.shape == (len(batch), 4)
