"""CUDA objects where a toolkit is found, and nothing where there is none.

`cuda_configure` looks for nvcc once; `cuda_library` compiles .cu files for sm_90a (Hopper's own instructions) and hands
the objects to a cc_library. No GPU is needed to build.
"""

def _cuda_configure_impl(repository_ctx):
    nvcc = repository_ctx.which("nvcc")
    if not nvcc and repository_ctx.path("/usr/local/cuda/bin/nvcc").exists:
        nvcc = repository_ctx.path("/usr/local/cuda/bin/nvcc")
    home = nvcc.realpath.dirname.dirname if nvcc else ""
    repository_ctx.file("cuda_config.bzl", "HAVE_CUDA = {}\nNVCC = \"{}\"\nCUDA_HOME = \"{}\"\n".format(
        "True" if nvcc else "False",
        nvcc.realpath if nvcc else "",
        home,
    ))
    repository_ctx.file("BUILD", "")

cuda_configure = repository_rule(
    implementation = _cuda_configure_impl,
    environ = ["PATH"],
    local = True,
)
