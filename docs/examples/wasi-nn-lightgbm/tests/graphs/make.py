"""Makes the models of the tests (python tests/graphs/make.py)."""

from pathlib import Path

HERE = Path(__file__).parent
HEAD = """tree
version=v4
num_class=4
num_tree_per_iteration=4
label_index=0
max_feature_idx=3
objective=custom
feature_names=a b c d
feature_infos=[-1:1] [-1:1] [-1:1] [-1:1]
"""
# A linear tree, whose leaves multiply one feature.
TREE = """Tree={k}
num_leaves=2
num_cat=0
split_feature={k}
split_gain=1
threshold=0
decision_type=2
left_child=-1
right_child=-2
leaf_value=0 0
leaf_weight=1 1
leaf_count=1 1
internal_value=0
internal_weight=2
internal_count=2
is_linear=1
leaf_const=0 0
num_features=1 1
leaf_features={k} {k}
leaf_coeff={factor} {factor}
shrinkage=1


"""
END = "end of trees\n\nfeature_importances:\n\nparameters:\nend of parameters\n"


def linear(factor):
    """A model that multiplies four features by a factor."""
    trees = [TREE.format(k=k, factor=factor) for k in range(4)]
    sizes = " ".join(str(len(tree)) for tree in trees)
    return f"{HEAD}tree_sizes={sizes}\n\n{''.join(trees)}{END}\npandas_categorical:null\n"


if __name__ == "__main__":
    (HERE / "identity.txt").write_text(linear(1))
    (HERE / "batch.txt").write_text(linear(2))
