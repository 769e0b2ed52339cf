#include "moe/model/numeric_profile.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace conclave {

namespace {

// What all but gates and routed experts compute in: on a CPU as DenseKernels has it, on accelerators as they do.
Compute DenseCompute(const Kernels& kernels) {
  if (kernels.compute == Compute::kF8) return Compute::kF8;
  if (kernels.compute == Compute::kInt8) return Compute::kInt8F32;
  return kernels.isa == "amx" ? Compute::kBF16x3 : Compute::kF32;
}

}  // namespace

std::string NumericProfile(const Kernels& kernels, RowFormat rows, DType cache) {
  return absl::AsciiStrToLower(absl::StrCat(
      "r", kKernelRevision, "/", kernels.isa, "/", Name(kernels.compute), "/dense-", Name(DenseCompute(kernels)),
      "/row-", Name(RowDType(kernels.compute)), rows == RowFormat::kFp8 ? "-fp8" : "", "/kv-",
      cache == DType::kF8E4M3 ? "fp8" : Name(cache), "/mla-absorbed/tp1"));
}

std::string NumericProfile(const Kernels& kernels) {
  return NumericProfile(kernels, RowFormat::kCompute, CacheDType(kernels.compute));
}

absl::StatusOr<const Kernels*> DenseKernels(const Kernels& kernels) {
  if (kernels.compute == Compute::kInt8) {
    if (kernels.isa == "reference") return &ReferenceKernels(Compute::kInt8F32);
    return CpuKernels(Compute::kInt8F32, kernels.isa);
  }
  if (kernels.isa == "amx") return CpuKernels(Compute::kBF16x3, "amx");
  return GateKernels(kernels);
}

absl::StatusOr<const Kernels*> GateKernels(const Kernels& kernels) {
  if (kernels.compute == Compute::kF32) return &kernels;
  if (kernels.isa == "amx") return CpuKernels(Compute::kF32, "avx512");
  if (kernels.isa == "reference") return &ReferenceKernels(Compute::kF32);
  return CpuKernels(Compute::kF32, absl::StripSuffix(kernels.isa, "-bf16"));
}

DType RowDType(Compute compute) { return compute == Compute::kF32 ? DType::kF32 : DType::kBF16; }

DType CacheDType(Compute compute, RowFormat format) {
  if (format == RowFormat::kFp8) return DType::kF8E4M3;
  return compute == Compute::kF8 ? DType::kBF16 : DType::kF32;
}

}  // namespace conclave
