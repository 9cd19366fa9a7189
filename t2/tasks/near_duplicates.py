"""Test questions that are nearly what something is learned from: reported, since only a reader can judge them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from datasketch import MinHash, MinHashLSH

from t2.config.rows import NearDuplicates
from t2.tasks.leaks import Passage
from t2.tasks.prompt import tokens


@dataclass(frozen=True, slots=True)
class Pair:
    """A test question and one that is learned from, by name, and the Jaccard similarity of their runs of words."""

    test: str
    learned: str
    similarity: float


def near_duplicates(tests: Iterable[Passage], learned: Iterable[Passage], params: NearDuplicates) -> list[Pair]:
    """Pairs whose runs of words are alike, most alike first.

    MinHash finds the candidates (datasketch's locality-sensitive hashing, which may miss a pair near the threshold);
    the similarity that is reported is exact.

    Args:
        tests: Canonical questions of test splits.
        learned: Canonical questions of the other splits.
        params: From which similarity on, the length of the runs, and the number of permutations.
    """
    # Candidates cost little, since their similarity is computed exactly; a pair that is missed is lost.
    index = MinHashLSH(threshold=params.threshold, num_perm=params.permutations, weights=(0.1, 0.9))
    runs: dict[str, set[bytes]] = {}
    for passage in learned:
        runs[passage.name] = _runs(passage.text, params.words)
        index.insert(passage.name, _hashed(runs[passage.name], params.permutations))
    pairs = []
    for passage in tests:
        own = _runs(passage.text, params.words)
        for name in index.query(_hashed(own, params.permutations)):
            similarity = len(own & runs[name]) / len(own | runs[name])
            if similarity >= params.threshold:
                pairs.append(Pair(passage.name, name, round(similarity, 3)))
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.test, pair.learned))


def _runs(text: str, words: int) -> set[bytes]:
    """Runs of so many words; a shorter text is one run."""
    read = tokens(text)
    return {" ".join(read[start : start + words]).encode() for start in range(max(1, len(read) - words + 1))}


def _hashed(runs: set[bytes], permutations: int) -> MinHash:
    made = MinHash(num_perm=permutations)
    made.update_batch(sorted(runs))
    return made
