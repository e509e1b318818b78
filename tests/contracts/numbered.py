# SPDX-License-Identifier: Apache-2.0
"""A TFDS builder in an importable module, as TFDS wants it."""

import io

import tensorflow_datasets as tfds
from etils import epath
from PIL import Image
from synthetic_data import numbered_image


class Numbered(tfds.core.GeneratorBasedBuilder):
    """12 images of one colour each, fed as PNG bytes, which needs no TensorFlow."""

    pkg_dir_path = epath.Path(__file__).parent  # TFDS looks for metadata there
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(6, 5, 3)),
                    "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
                    "text": tfds.features.Text(),
                }
            )
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(12):
            out = io.BytesIO()
            Image.fromarray(numbered_image(i)).save(out, "PNG")
            yield i, {"image": out.getvalue(), "label": i % 3, "text": f"number {i}"}


def offline() -> tfds.download.DownloadConfig:
    return tfds.download.DownloadConfig(try_download_gcs=False)
