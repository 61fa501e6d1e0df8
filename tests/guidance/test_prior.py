import subprocess
import sys

import torch

from dreamfusion.guidance.prior import concatenate_texts
from dreamfusion.types import Branch, TextEmbedding


def test_branches_are_concatenated_in_order():
    first = Branch(TextEmbedding(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 5)))
    second = Branch(TextEmbedding(torch.ones(1, 3, 4), torch.zeros(1, 3, dtype=torch.bool), torch.ones(1, 5)))
    text = concatenate_texts([first, second])
    assert text.states[:, 0, 0].tolist() == [0, 0, 1]
    assert text.mask[:, 0].tolist() == [True, True, False]
    assert text.pooled[:, 0].tolist() == [0, 0, 1]


def test_importing_the_adapters_imports_no_diffusers_and_no_transformers():
    code = (
        "import sys, dreamfusion.guidance.prior, dreamfusion.guidance.pocket, dreamfusion.guidance.stable_diffusion,"
        "dreamfusion.guidance.deepfloyd, dreamfusion.distillation.sds; "
        "print(sorted({'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
