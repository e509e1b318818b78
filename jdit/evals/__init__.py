# SPDX-License-Identifier: Apache-2.0
"""Scores of generated data, over any feature function: streamed, exact, on the host."""

from jdit.evals.adm import Measured, adm_scores, measure, read_reference
from jdit.evals.clip_features import CLIP, clip_s, clip_score
from jdit.evals.digits import DigitReader, DigitsClassifier, cache_folder
from jdit.evals.dino_features import DINOv2
from jdit.evals.drawn import Draw, Drawn
from jdit.evals.efficientnet import EfficientNetLite0
from jdit.evals.evaluation import (
    DigitsEvaluation,
    Evaluation,
    FeatureEvaluation,
    distance_of_halves,
)
from jdit.evals.features import Features, Reference, compare, evaluate, extract
from jdit.evals.fid_features import InceptionPool
from jdit.evals.inception import inception_score
from jdit.evals.kernel import cmmd, kernel_distance, squared_mmd
from jdit.evals.lpips import LPIPS, lpips_alex, lpips_vgg
from jdit.evals.manifold import density_coverage, precision_recall
from jdit.evals.paired import paired, psnr, relative_error, ssim
from jdit.evals.resize import CleanResize, PillowResize, TensorFlowResize
from jdit.evals.retrieval import Retrieval, retrieval
from jdit.evals.statistics import Statistics, frechet_distance
from jdit.evals.video_features import I3D

__all__ = [
    "CLIP",
    "CleanResize",
    "DINOv2",
    "DigitReader",
    "DigitsClassifier",
    "DigitsEvaluation",
    "Draw",
    "Drawn",
    "EfficientNetLite0",
    "Evaluation",
    "FeatureEvaluation",
    "Features",
    "I3D",
    "InceptionPool",
    "LPIPS",
    "Measured",
    "PillowResize",
    "Reference",
    "Retrieval",
    "Statistics",
    "TensorFlowResize",
    "adm_scores",
    "cache_folder",
    "clip_s",
    "clip_score",
    "cmmd",
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
