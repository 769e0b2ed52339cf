// One source, compiled once per instruction set by //moe/kernels/cpu:BUILD, which sets CONCLAVE_ISA and the flags.
#include "moe/kernels/cpu/raw_kernels.h"

#if defined(CONCLAVE_ISA_AVX2) && !defined(__AVX2__)
#define CONCLAVE_ISA_MISSING  // another architecture: the table stays empty
#endif
#if defined(CONCLAVE_ISA_AVX512) && !defined(__AVX512F__)
#define CONCLAVE_ISA_MISSING
#endif

#if !defined(CONCLAVE_ISA_MISSING)
#include "moe/kernels/cpu/elementwise.h"
#include "moe/kernels/cpu/linear.inl"
#include "moe/kernels/cpu/mla.inl"
#include "moe/kernels/cpu/outer.inl"
#if defined(CONCLAVE_ISA_DOT_BF16)
#include "moe/kernels/cpu/dot_bf16.h"
#include "moe/kernels/cpu/dot_bf16_integers.h"
#endif
#endif

namespace conclave {

#if !defined(CONCLAVE_ISA_MISSING)
namespace CONCLAVE_ISA {

constexpr cpu::RawKernels Table(void (*linear)(const cpu::RawLinear&), void (*transposed)(const cpu::RawTransposed&),
                                void (*mla)(const cpu::RawMla&)) {
  return cpu::RawKernels{linear, transposed, &RmsNorm, &SiluMul, &ToBf16, &FromBf16, &AxpyF32, &AxpyBf16, mla};
}

#if defined(CONCLAVE_ISA_DOT_BF16)
// Half precision does not fit bfloat16: its products are in float32, with x rounded like everywhere.
void LinearPairs(const cpu::RawLinear& args) {
  switch (args.w.element) {
    case cpu::Element::kF32:
      return RunLinear<PairDotF32, PairDotBf16, false>(args, true);
    case cpu::Element::kBf16:
      return RunLinear<PairDotBf16, PairDotBf16, false>(args, true);
    case cpu::Element::kF16:
      return RunLinear<FloatDot<SourceF16>, FloatDot<SourceF32>, false>(args, true);
    case cpu::Element::kF8E4M3:
      return RunLinear<PairDotF8, PairDotBf16, true>(args, true);
    case cpu::Element::kInt8:
      return RunLinear<PairDotInt8, PairDotBf16, true>(args, true);
    case cpu::Element::kInt4:
      return RunLinear<PairDotInt4, PairDotBf16, true>(args, true);
  }
}

void MlaPairs(const cpu::RawMla& args) {
  if (args.element != cpu::CacheElement::kBf16) return MlaFloat<true>(args);
  MlaRun<PairDotBf16, SourceBf16>(args, true).Run();
}
#endif

}  // namespace CONCLAVE_ISA
#endif

namespace cpu {

#if defined(CONCLAVE_ISA_MISSING)
#define CONCLAVE_TABLE(rounds) \
  {}
#else
#define CONCLAVE_TABLE(rounds)                                                                     \
  CONCLAVE_ISA::Table(&CONCLAVE_ISA::LinearFloat<rounds>, &CONCLAVE_ISA::LinearTransposed<rounds>, \
                      &CONCLAVE_ISA::MlaFloat<rounds>)
#endif

#if defined(CONCLAVE_ISA_DOT_BF16) && !defined(CONCLAVE_ISA_MISSING)
extern constinit const RawKernels kAvx512DotBf16 =
    CONCLAVE_ISA::Table(&CONCLAVE_ISA::LinearPairs, &CONCLAVE_ISA::LinearTransposed<true>, &CONCLAVE_ISA::MlaPairs);
#elif defined(CONCLAVE_ISA_DOT_BF16)
extern constinit const RawKernels kAvx512DotBf16 = {};
#elif defined(CONCLAVE_ISA_AVX512)
extern constinit const RawKernels kAvx512F32 = CONCLAVE_TABLE(false);
extern constinit const RawKernels kAvx512Bf16 = CONCLAVE_TABLE(true);
#elif defined(CONCLAVE_ISA_AVX2)
extern constinit const RawKernels kAvx2F32 = CONCLAVE_TABLE(false);
extern constinit const RawKernels kAvx2Bf16 = CONCLAVE_TABLE(true);
#else
extern constinit const RawKernels kScalarF32 = CONCLAVE_TABLE(false);
extern constinit const RawKernels kScalarBf16 = CONCLAVE_TABLE(true);
#endif

}  // namespace cpu
}  // namespace conclave
