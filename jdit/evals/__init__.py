# SPDX-License-Identifier: Apache-2.0
"""Scores of generated data, over any feature function: streamed, exact, on the host."""

from jdit.evals.adm import Measured, adm_scores, measure, read_reference
from jdit.evals.digits import DigitReader, DigitsClassifier, cache_folder
from jdit.evals.efficientnet import EfficientNetLite0
from jdit.evals.evaluation import (
    DigitsEvaluation,
    Draw,
    Evaluation,
    FeatureEvaluation,
    distance_of_halves,
)
from jdit.evals.features import Features, Reference, compare, evaluate, extract
from jdit.evals.fid_features import InceptionPool
from jdit.evals.inception import inception_score
from jdit.evals.kernel import kernel_distance, squared_mmd
from jdit.evals.lpips import LPIPS, lpips_alex, lpips_vgg
from jdit.evals.manifold import density_coverage, precision_recall
from jdit.evals.paired import paired, psnr, relative_error, ssim
from jdit.evals.resize import CleanResize, TensorFlowResize
from jdit.evals.retrieval import Retrieval, retrieval
from jdit.evals.statistics import Statistics, frechet_distance

__all__ = [
    "CleanResize",
    "DigitReader",
    "DigitsClassifier",
    "DigitsEvaluation",
    "Draw",
    "EfficientNetLite0",
    "Evaluation",
    "FeatureEvaluation",
    "Features",
    "InceptionPool",
    "LPIPS",
    "Measured",
    "Reference",
    "Retrieval",
    "Statistics",
    "TensorFlowResize",
    "adm_scores",
    "cache_folder",
    "compare",
    "density_coverage",
    "distance_of_halves",
    "evaluate",
    "extract",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "lpips_alex",
    "lpips_vgg",
    "measure",
    "paired",
    "precision_recall",
    "psnr",
    "read_reference",
    "relative_error",
    "retrieval",
    "squared_mmd",
    "ssim",
]
