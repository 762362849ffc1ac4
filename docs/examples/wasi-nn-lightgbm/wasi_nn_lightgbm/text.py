"""LightGBM's text format, looked at before LightGBM reads it.

LightGBM follows the numbers of a tree without a check: a child that is not there is read from
whatever memory is there, and a tree with a cycle never ends. So each tree must be a tree, and its
features must exist. (LightGBM's parser has mistakes as well: a guest's own models are read in a
worker, which may crash.)"""

from __future__ import annotations

from collections.abc import Iterator

from wasi_nn import errors

_MAX_FEATURES = 1 << 20
_MAX_CLASSES = 1 << 16


def check(text: str) -> None:
    """Raise ``RuntimeFailure`` for a model whose numbers do not fit together."""
    try:
        head, *trees = _sections(text)
        features = _number(head, "max_feature_idx", _MAX_FEATURES) + 1
        _number(head, "num_class", _MAX_CLASSES)
        each = _number(head, "num_tree_per_iteration", _MAX_CLASSES)
        if not trees or not each or len(trees) % each:
            raise ValueError(f"it has {len(trees)} trees, {each} in each iteration")
        for number, tree in enumerate(trees):
            try:
                _check_tree(tree, features)
            except (ValueError, KeyError, IndexError) as error:
                raise ValueError(f"tree {number}: {error}") from error
    except (ValueError, KeyError, IndexError) as error:
        raise errors.RuntimeFailure(f"this is not a model that LightGBM wrote: {error}") from error


def _sections(text: str) -> Iterator[dict[str, str]]:
    """The head and each tree, as keys and values."""
    if not text.startswith("tree\nversion=v"):
        raise ValueError("it does not begin with the line 'tree' and a version")
    body, end, _ = text.partition("\nend of trees\n")
    if not end:
        raise ValueError("it has no line 'end of trees': is it complete?")
    for section in body.split("\nTree="):
        lines = (line.partition("=") for line in section.splitlines())
        yield {key: value for key, equals, value in lines if equals}


def _number(section: dict[str, str], key: str, most: int) -> int:
    if key not in section:
        raise ValueError(f"it has no {key}")
    found = int(section[key])
    if not 0 <= found <= most:
        raise ValueError(f"{key} is {found}, and may be {most} at most")
    return found


def _numbers(section: dict[str, str], key: str, many: int) -> list[int]:
    found = [int(word) for word in section.get(key, "").split()]
    if len(found) != many:
        raise ValueError(f"{key} has {len(found)} numbers, not {many}")
    return found


def _check_tree(tree: dict[str, str], features: int) -> None:
    leaves = _number(tree, "num_leaves", len(tree["leaf_value"]))
    if len(tree["leaf_value"].split()) != leaves or not leaves:
        raise ValueError(f"leaf_value does not have {leaves} numbers")
    nodes = leaves - 1
    if nodes:
        _check_features(_numbers(tree, "split_feature", nodes), features)
        if len(tree["threshold"].split()) != nodes:
            raise ValueError(f"threshold does not have {nodes} numbers")
        kinds = _numbers(tree, "decision_type", nodes)
        # Each node but the first, and each leaf, has one parent, which comes before it.
        seen = [False] * nodes, [False] * leaves
        for key in ("left_child", "right_child"):
            for node, child in enumerate(_numbers(tree, key, nodes)):
                place, of = (child, seen[0]) if child >= 0 else (~child, seen[1])
                if place >= len(of) or of[place] or 0 <= child <= node:
                    raise ValueError(f"node {node} has a {key} {child}, which makes it no tree")
                of[place] = True
        _check_categories(tree, kinds)
    if int(tree.get("is_linear", "0")):
        counts = _numbers(tree, "num_features", leaves)
        if min(counts) < 0:
            raise ValueError("num_features is negative")
        _check_features(_numbers(tree, "leaf_features", sum(counts)), features)
        for key, many in (("leaf_coeff", sum(counts)), ("leaf_const", leaves)):
            if len(tree[key].split()) != many:
                raise ValueError(f"{key} does not have {many} numbers")


def _check_features(found: list[int], features: int) -> None:
    for feature in found:
        if not 0 <= feature < features:
            raise ValueError(f"feature {feature} is not among the {features}")


def _check_categories(tree: dict[str, str], kinds: list[int]) -> None:
    """A node that looks a category up (bit 0) has the number of a set as its threshold."""
    categorical = [at for at, kind in enumerate(kinds) if kind & 1]
    sets = int(tree.get("num_cat", "0"))
    if not categorical and not sets:
        return
    bounds = _numbers(tree, "cat_boundaries", sets + 1)
    words = tree.get("cat_threshold", "").split()
    if bounds != sorted(bounds) or bounds[0] != 0 or bounds[-1] != len(words):
        raise ValueError("cat_boundaries do not fit cat_threshold")
    thresholds = tree["threshold"].split()
    for at in categorical:
        if not 0 <= float(thresholds[at]) < sets:
            raise ValueError(f"node {at} has the threshold {thresholds[at]}, and {sets} sets")
