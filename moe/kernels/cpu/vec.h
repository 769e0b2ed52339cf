// The vector that the kernels are written in. One of the three headers below gives namespace CONCLAVE_ISA (named by
// the build, one per instruction set, so that nothing of two instruction sets is ever merged by the linker):
//   V, kLanes          float32 lanes
//   kTileRows          rows of x that one register tile holds
//   kOuterVectors      accumulators of an outer-product tile
//   Zero Set Load Store LoadPartial StorePartial Add Sub Mul Div Fma Max Min Round PowerOfTwo RoundToBf16
//   LoadBf16 LoadF16 LoadF8 LoadInt8 LoadInt4 (see WeightCode) and their ...Partial forms (missing lanes read zero)
//   StoreBf16 StoreBf16Partial
//   Reduce4            four sums over lanes, by one fixed tree
// Partial forms take 0 < count < kLanes. Addresses need no alignment. Min and Max return their second argument when
// either is NaN, so that Min(bound, x) keeps a NaN x.
#ifndef CONCLAVE_MOE_KERNELS_CPU_VEC_H_
#define CONCLAVE_MOE_KERNELS_CPU_VEC_H_

#ifndef CONCLAVE_ISA
#error "CONCLAVE_ISA names the namespace of an instruction set; //moe/kernels/cpu:BUILD defines it"
#endif

// Tiles and the reading of remainders: used in many places, and rare or long enough for a call, so that one copy of
// each keeps inner loops small (and builds fast: a sanitizer checks a masked load lane by lane).
#define CONCLAVE_NEVER_INLINE __attribute__((noinline))
#define CONCLAVE_ALWAYS_INLINE inline __attribute__((always_inline))

#if defined(CONCLAVE_ISA_AVX512)
#include "moe/kernels/cpu/vec_avx512.h"
#elif defined(CONCLAVE_ISA_AVX2)
#include "moe/kernels/cpu/vec_avx2.h"
#else
#include "moe/kernels/cpu/vec_scalar.h"
#endif

namespace conclave::CONCLAVE_ISA {

constexpr int64_t MinOf(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t MaxOf(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_VEC_H_
