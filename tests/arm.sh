#!/bin/sh
# Makes build/arm/python: Python 3.11 for aarch64 with the locked packages, run by emulation. For `make same-bits-arm`.
# Needs Debian 12 and qemu-aarch64-static (apt-get install qemu-user-static); no binfmt, no chroot, no root.
set -eu
cd "$(dirname "$0")/.."
arm="$PWD/build/arm"

command -v qemu-aarch64-static >/dev/null || { echo "same-bits-arm: no qemu-aarch64-static here; apt-get install qemu-user-static" >&2; exit 1; }
command -v apt-get >/dev/null || { echo "same-bits-arm: needs Debian, whose packages for arm64 it unpacks" >&2; exit 1; }
rm -rf "$arm"
mkdir -p "$arm"/apt/lists/partial "$arm"/apt/cache/archives/partial "$arm"/root "$arm"/site
: > "$arm/apt/status"
cat > "$arm/apt.conf" <<CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Dir::State "$arm/apt";
Dir::State::status "$arm/apt/status";
Dir::Cache "$arm/apt/cache";
Dir::Log "$arm/apt";
Debug::NoLocking "1";
CONF
APT_CONFIG="$arm/apt.conf" apt-get -q update
APT_CONFIG="$arm/apt.conf" apt-get -q install -y --download-only python3.11 libstdc++6
for deb in "$arm"/apt/cache/archives/*.deb; do dpkg-deb -x "$deb" "$arm/root"; done

# What attacks and metrics import, and OpenCV's headless build: the other one needs a desktop's libraries.
for name in annotated-types imageio lazy-loader llvmlite networkx numba numpy packaging pillow platformdirs pooch psutil pydantic \
  pydantic-core pyyaml randomgen requests scikit-image scipy threadpoolctl tifffile tqdm typing-extensions typing-inspection; do
  awk -v name="$name==" 'index($0, name) == 1 {on = 1} on {print} on && !/\\$/ {on = 0}' requirements.lock
done | cat - requirements-headless.lock > "$arm/requirements.txt"
platforms=$(for tag in manylinux_2_17 manylinux2014 manylinux_2_26 manylinux_2_27 manylinux_2_28; do printf -- "--platform ${tag}_aarch64 "; done)
.venv/bin/python -m pip install -q --target "$arm/site" --no-deps --require-hashes --only-binary=:all: --python-version 3.11 \
  --implementation cp --abi cp311 --abi abi3 --abi none $platforms -r "$arm/requirements.txt"

# NumPy's and OpenBLAS's choices are the emulated processor's own; compiled kernels are kept for the next run.
cat > "$arm/python" <<WRAPPER
#!/bin/sh
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
export PYTHONPATH="$PWD/src:$arm/site" NUMBA_CACHE_DIR="$arm/numba"
exec qemu-aarch64-static -L "$arm/root" "$arm/root/usr/bin/python3.11" "\$@"
WRAPPER
chmod +x "$arm/python"
touch "$arm/ready"
