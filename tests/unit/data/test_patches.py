import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from scipy.spatial.transform import Rotation

from stunet.data.patches import PatchDraw, PatchSource
from stunet.data.sampler import SamplerConfig
from stunet.errors import ConfigError, DataError
from stunet.io.store import Store, open_store
from stunet.transforms.augment import AugmentConfig
from stunet.types import CaseArrays

PATCH = (32, 28, 36)
ALL = (0, 1, 2)
PLAIN = AugmentConfig(enabled=False)
MOVED = AugmentConfig(  # space only, always
    rotation_p=1.0,
    scale_p=1.0,
    noise_p=0,
    blur_p=0,
    brightness_p=0,
    contrast_p=0,
    low_res_p=0,
    inverted_gamma_p=0,
    gamma_p=0,
)
OFTEN = AugmentConfig(  # everything, often
    rotation_p=0.6, scale_p=0.6, noise_p=0.6, blur_p=0.6, contrast_p=0.6, low_res_p=0.6, gamma_p=0.6
)


def source(store: Store, augment: AugmentConfig, foreground: float = 0.33) -> PatchSource:
    return PatchSource(store, ALL, PATCH, 7, SamplerConfig(foreground), augment)


def normalised(case: CaseArrays) -> np.ndarray:
    """Both schemes of the test store, written out: CT with data-set values, MR by its own."""
    ct = np.clip(case.image_czyx[0].astype(np.float32), -500, 500)
    mr = case.image_czyx[1].astype(np.float32) * np.float32(0.05) + np.float32(3)
    return np.stack([(ct - 20) / 300, (mr - mr.mean(dtype=np.float64)) / mr.std(dtype=np.float64)])


def padded_crop(array: np.ndarray, start: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    wide = np.pad(array, [(0, 0)] * (array.ndim - 3) + [(40, 40)] * 3)
    return wide[(..., *(slice(40 + a, 40 + a + n) for a, n in zip(start, shape, strict=True)))]


def test_without_augmentation_a_patch_is_the_normalised_crop(
    store: Store, cases: dict[str, CaseArrays]
) -> None:
    patches = source(store, PLAIN)
    for sample in range(12):
        patch = patches[sample]
        case, start = cases[patch.draw.case_id], patch.draw.start_zyx
        expected = padded_crop(normalised(case), start, PATCH)
        np.testing.assert_allclose(patch.image_cdhw, expected, rtol=1e-5, atol=1e-5)
        outside = padded_crop(np.ones(case.label_zyx.shape), start, PATCH) == 0
        assert (patch.image_cdhw.numpy()[:, outside] == 0).all()
        np.testing.assert_array_equal(patch.label_dhw, padded_crop(case.label_zyx, start, PATCH))
        assert patch.image_cdhw.dtype == torch.float32 and patch.label_dhw.dtype == torch.int16


def test_a_mirrored_patch_is_the_flipped_crop(store: Store) -> None:
    plain, flipped = source(store, PLAIN), source(store, replace(MOVED, rotation_p=0, scale_p=0))
    seen = set()
    for sample in range(16):
        patch, other = plain[sample], flipped[sample]
        axes = [axis for axis, flip in enumerate(other.draw.spatial.mirror) if flip]
        seen.update(axes)
        assert torch.equal(other.label_dhw, patch.label_dhw.flip(axes))
        assert torch.equal(other.image_cdhw, patch.image_cdhw.flip([axis + 1 for axis in axes]))
    assert seen == {0, 1, 2}


def sampled_by_scipy(array: np.ndarray, draw: PatchDraw) -> np.ndarray:
    """The patch of one map cut from the whole volume by scipy, zero outside."""
    turn = Rotation.from_euler("xyz", draw.spatial.rotation_deg[::-1], degrees=True).inv()
    zoom = np.array(draw.spatial.scale) * np.where(draw.spatial.mirror, -1, 1)
    matrix = turn.as_matrix()[::-1, ::-1] @ np.diag(zoom)
    middle = (np.array(PATCH) - 1) / 2
    offset = np.array(draw.start_zyx) + middle - matrix @ middle + 40
    return scipy.ndimage.affine_transform(
        np.pad(array, 40), matrix, offset, output_shape=PATCH, order=1, mode="constant"
    )


def test_a_moved_patch_equals_resampling_the_whole_volume(
    store: Store, cases: dict[str, CaseArrays]
) -> None:
    patches = source(store, MOVED)
    for sample in range(6):
        patch = patches[sample]
        case = cases[patch.draw.case_id]
        for channel, whole in zip(patch.image_cdhw, normalised(case), strict=True):
            np.testing.assert_allclose(channel, sampled_by_scipy(whole, patch.draw), atol=2e-4)
        values = np.array([0, 1, 2, 3, 7, 9])
        one_hot = (case.label_zyx == values[1:, None, None, None]).astype(float)
        shares = np.stack([sampled_by_scipy(each, patch.draw) for each in one_hot])
        shares = np.concatenate([1 - shares.sum(0, keepdims=True), shares])  # outside is label 0
        second, first = np.sort(shares, axis=0)[-2:]
        clear = first - second > 1e-5
        assert clear.mean() > 0.99
        expected = values[shares.argmax(0)]
        np.testing.assert_array_equal(patch.label_dhw.numpy()[clear], expected[clear])


def test_a_patch_depends_on_seed_and_number_alone(store: Store) -> None:
    patches = source(store, OFTEN)
    first = [patches[sample] for sample in range(8)]
    again = pickle.loads(pickle.dumps(source(store, OFTEN)))
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for sample in reversed(range(8)):
            patch = again[sample]
            assert patch.draw == first[sample].draw
            assert torch.equal(patch.image_cdhw, first[sample].image_cdhw)
            assert torch.equal(patch.label_dhw, first[sample].label_dhw)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert len({patch.image_cdhw.sum().item() for patch in first}) == 8


def test_another_seed_gives_other_patches(store: Store) -> None:
    other = PatchSource(store, ALL, PATCH, 8, SamplerConfig(), OFTEN)
    same = [source(store, OFTEN).draw(i) == other.draw(i) for i in range(10)]
    assert not any(same)


def test_foreground_patches_hold_their_label_and_never_the_ignored_one(store: Store) -> None:
    patches = source(store, PLAIN, foreground=1.0)
    labels = set()
    for sample in range(40):
        label = patches.draw(sample).label
        labels.add(label)
        assert (patches[sample].label_dhw == label).any()
    assert labels == {1, 2, 3, 7}


def test_only_the_given_cases_are_cut(store: Store) -> None:
    patches = PatchSource(store, (2, 0), PATCH, 7, SamplerConfig(), PLAIN)
    assert {patches.draw(sample).case for sample in range(10)} == {0, 2}


def test_describe_gives_json_and_reads_no_voxel(store_root: Path, tmp_path: Path) -> None:
    shutil.copytree(store_root, tmp_path / "store")
    store = open_store(tmp_path / "store")
    patches = source(store, OFTEN)
    expected = [patches.describe(sample) for sample in range(6)]
    shutil.rmtree(tmp_path / "store" / "cases")
    fresh = source(store, OFTEN)
    assert [fresh.describe(sample) for sample in range(6)] == expected
    text = json.loads(json.dumps(expected))
    assert text[4]["sample"] == 4 and text[4]["case_id"] in {"tall", "wide", "thin"}
    assert text[4]["start_zyx"] == list(expected[4]["start_zyx"])
    with pytest.raises(DataError, match=expected[0]["case_id"]):
        fresh[0]


def test_where_a_patch_lies_is_told_without_reading(store: Store) -> None:
    patches = source(store, PLAIN)
    row = store.rows[patches.draw(5).case]
    assert patches.locate(5) == f"case {row.case_id}, shard {store.root / row.path}"


def test_a_source_without_cases_or_with_a_bad_seed_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match="no case"):
        PatchSource(store, (), PATCH, 7, SamplerConfig(), PLAIN)
    with pytest.raises(ConfigError, match="seed=-1"):
        PatchSource(store, ALL, PATCH, -1, SamplerConfig(), PLAIN)


def test_labels_beyond_int16_are_refused(store: Store) -> None:
    info = replace(store.info, labels={**store.info.labels, "huge": 40000})
    with pytest.raises(DataError, match="label 40000"):
        source(Store(store.root, info, store.rows), PLAIN)
