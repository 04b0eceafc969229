"""Makes torchvision import in this virtual environment, if it is there and does not: `python .lock/mend.py`.

Beside a CPU build of torch the CUDA wheels of torchvision, torchaudio and torchcodec fail at import. The first is mended
(`torchvision_operators.py`); the others are taken out, since transformers imports them when it sees them and nothing here
needs them.
"""

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path


def imports(module: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


def main() -> int:
    packages = Path(sysconfig.get_paths()["purelib"])
    unwanted = [name for name in ("torchaudio", "torchcodec") if importlib.util.find_spec(name) and not imports(name)]
    if unwanted:
        subprocess.run([sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", *unwanted], check=True)
    if importlib.util.find_spec("torchvision") is None or imports("torchvision"):
        return 0
    shutil.copy(Path(__file__).with_name("torchvision_operators.py"), packages / "_torchvision_operators.py")
    (packages / "_torchvision_operators.pth").write_text("import _torchvision_operators\n")
    if imports("torchvision"):
        return 0
    print("torchvision does not import here, mended or not; vLLM and the processors of vision-language models need it")
    return 1


if __name__ == "__main__":
    sys.exit(main())
