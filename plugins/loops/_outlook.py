"""When the two loops can be expected to help: thresholds from trials and experiments on the shapes world, see ``docs/method.md``."""

from __future__ import annotations

from collections.abc import Mapping

from core.contracts import Outlook

KEPT = 0.7  # share of words that reach the segmenter as the teacher wrote them; 0.57 harmed
CLEAN = 0.9  # below it clean text gave more: 0.75 (a quarter masked) gained 0.02 to 0.13 of cIoU less
SINGLED_OUT = 0.5  # share of captions that tell their region from the picture's others; of one phrase for all it is 0
EMPTY_CAPTIONS = 0.1
FAILS = 0.3  # mean IoU: below it the segmenter fails on these pictures; 0.08 and 0.23 gained most, 0.62 less, 0.93 at most 0.01
WRONG_WORDS = 0.2  # IoU that own captions may lose against given ones of the same regions; the small base loses more on its own world
EMPTY_MASKS = 0.4  # share


def from_captions(figures: Mapping[str, float]) -> Outlook:
    """Of mask -> caption -> mask."""
    doubts = []
    own, singled = figures.get("own_words"), figures.get("singled_out")
    there, given = figures.get("own_words_of_given"), figures.get("given_words")  # of the same regions
    if (kept := figures.get("kept_tokens", 1.0)) < KEPT:
        what = f"{kept:.0%} of the words reach the segmenter as the teacher wrote them (kept_tokens)"
        doubts.append(f"only {what}: use the sampler greedy_st, a lower temperature or a smaller token_mask_ratio, 0 for clean text")
    if (empty := figures.get("empty_captions", 0.0)) > EMPTY_CAPTIONS:
        doubts.append(f"{empty:.0%} of the captions are empty (empty_captions): train the base to describe first")
    if singled is not None and singled < SINGLED_OUT:
        what = f"only {singled:.0%} of the captions single out their region in its picture, so that one phrase is taught several masks"
        doubts.append(f"{what}: train the base to describe first")
    if own is not None and own >= FAILS and there is not None and given is not None and there < given - WRONG_WORDS:
        what = f"of regions with captions, the base finds {given:.2f} (IoU) by the given ones and {there:.2f} by its own"
        doubts.append(f"{what}: its words are wrong rather than its masks, and would be taught; cut caption_length to those that are right")
    if own is None:
        return Outlook(doubts)
    if own < FAILS:
        hope = f"the base fails to find what it describes (IoU {own:.2f}): where its captions are right, the largest gain was seen"
    else:
        hope = f"the base finds what it describes with an IoU of {own:.2f}: expect a small gain, and watch a metric on held-out labels"
    if KEPT <= kept < CLEAN:
        hope += f"; {kept:.0%} of its words reach the segmenter as the teacher wrote them (kept_tokens), and clean text gave more"
    return Outlook(doubts, hope)


def from_masks(figures: Mapping[str, float]) -> Outlook:
    """Of caption -> mask -> caption."""
    empty = figures.get("empty_masks", 0.0)
    if empty >= EMPTY_MASKS:
        what = f"{empty:.0%} of its masks are empty (empty_masks), so that their captions are learned from no region"
        return Outlook([f"{what}: train referring segmentation on these pictures first, or begin with weight 0 and raise it"])
    return Outlook(
        [], "its masks are there; in experiments it gave no better captions than plain description: compare with a run without it"
    )
