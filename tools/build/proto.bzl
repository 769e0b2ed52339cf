"""C++ from .proto files, by Debian's protoc and grpc_cpp_plugin."""

def cpp_proto_library(name, srcs, deps = [], visibility = None):
    """A cc_library of the messages and gRPC stubs of `srcs`; include them by the path below //protos."""
    outs = []
    for src in srcs:
        stem = src[:-len(".proto")]
        outs += [stem + suffix for suffix in [".pb.h", ".pb.cc", ".grpc.pb.h", ".grpc.pb.cc"]]
    native.genrule(
        name = name + "_codegen",
        srcs = srcs,
        outs = outs,
        cmd = "protoc -I protos --cpp_out=$(RULEDIR) --grpc_out=$(RULEDIR) " +
              "--plugin=protoc-gen-grpc=$$(command -v grpc_cpp_plugin) $(SRCS)",
    )
    native.cc_library(
        name = name,
        hdrs = [out for out in outs if out.endswith(".h")],
        srcs = [out for out in outs if out.endswith(".cc")],
        includes = ["."],
        copts = ["-Wno-unused-parameter"],
        deps = deps + ["//third_party:grpc"],
        visibility = visibility,
    )
