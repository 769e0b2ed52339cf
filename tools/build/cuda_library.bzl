"""cuda_library, cuda_binary and cuda_shared_library: see cuda.bzl."""

load("@local_cuda//:cuda_config.bzl", "CUDA_HOME", "HAVE_CUDA", "NVCC")

_FLAGS = ("-std=c++20 -O3 --expt-relaxed-constexpr -lineinfo -diag-suppress=2810 -Xcompiler=-fPIC " +
          "-gencode=arch=compute_90a,code=sm_90a")

# Files not named sm90_*.cu hold no Hopper instructions: their PTX runs on every GPU since compute capability 8.0.
_PORTABLE = "-gencode=arch=compute_80,code=compute_80"

def _compile(src, hdrs):
    out = src[:-len(".cu")] + ".o"
    native.genrule(
        name = out.replace("/", "_").replace(".", "_"),
        srcs = [src] + hdrs,
        outs = [out],
        cmd = "{} {} -I . -c $(location {}) -o $@".format(
            NVCC,
            _FLAGS + ("" if src.startswith("sm90_") else " " + _PORTABLE),
            src,
        ),
    )
    return out

def cuda_library(name, srcs, hdrs = [], device_hdrs = [], deps = [], **kwargs):
    """`hdrs` are what C++ callers include; `device_hdrs` (and everything that the .cu files include) only nvcc sees.

    Without a toolkit the target does not exist; callers select on HAVE_CUDA.
    """
    if not HAVE_CUDA:
        return
    native.cc_library(
        name = name,
        srcs = [_compile(src, hdrs + device_hdrs) for src in srcs],
        hdrs = hdrs,
        linkopts = ["-L{}/lib64".format(CUDA_HOME), "-lcudart_static", "-ldl", "-lrt", "-lpthread"],
        deps = deps,
        **kwargs
    )

def cuda_binary(name, src, hdrs = [], deps = [], **kwargs):
    """A program whose main is in one .cu file, such as a benchmark that only runs where a GPU is."""
    if not HAVE_CUDA:
        return
    native.cc_binary(name = name, srcs = [_compile(src, hdrs)], deps = deps, **kwargs)

def cuda_shared_library(name, src, hdrs = [], deps = [], **kwargs):
    """A shared object whose one exported function is in `src`: what programs without CUDA open at run time."""
    if not HAVE_CUDA:
        return
    native.cc_binary(
        name = name,
        srcs = [_compile(src, hdrs)],
        linkshared = True,
        linkopts = ["-Wl,--exclude-libs,ALL"],
        deps = deps,
        **kwargs
    )
