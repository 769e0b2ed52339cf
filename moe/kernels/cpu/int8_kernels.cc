// Products of 8-bit integers without tiles: one source, compiled once per instruction set.
#include "moe/kernels/cpu/raw_int8.h"

#if defined(CONCLAVE_ISA_AVX2) && !defined(__AVX2__)
#define CONCLAVE_ISA_MISSING
#endif
#if defined(CONCLAVE_ISA_AVX512) && !defined(__AVX512F__)
#define CONCLAVE_ISA_MISSING
#endif

#if !defined(CONCLAVE_ISA_MISSING)
#if defined(CONCLAVE_ISA_AVX512)
#include "moe/kernels/cpu/int8_few.inl"
#else
#include "moe/kernels/cpu/int8_loops.h"
#endif

namespace conclave::CONCLAVE_ISA {

inline constexpr int64_t kAllRows = INT64_MAX;

void LinearInt8(const cpu::RawInt8Linear& args) {
#if defined(CONCLAVE_ISA_AVX512)
  LinearInt8Few(args);
#else
  LinearInt8Loops(args);
#endif
}

}  // namespace conclave::CONCLAVE_ISA
#endif

namespace conclave::cpu {
#if defined(CONCLAVE_ISA_MISSING)
#define CONCLAVE_INT8_TABLE \
  { INT64_MAX, nullptr, nullptr }
#else
#define CONCLAVE_INT8_TABLE \
  { CONCLAVE_ISA::kAllRows, &CONCLAVE_ISA::PackInt8<CONCLAVE_ISA::kAllRows>, &CONCLAVE_ISA::LinearInt8 }
#endif

#if defined(CONCLAVE_ISA_VNNI)
extern constinit const RawInt8 kAvx512VnniInt8 = CONCLAVE_INT8_TABLE;
#elif defined(CONCLAVE_ISA_AVX512)
extern constinit const RawInt8 kAvx512Int8 = CONCLAVE_INT8_TABLE;
#elif defined(CONCLAVE_ISA_AVX2)
extern constinit const RawInt8 kAvx2Int8 = CONCLAVE_INT8_TABLE;
#else
extern constinit const RawInt8 kScalarInt8 = CONCLAVE_INT8_TABLE;
#endif
}  // namespace conclave::cpu
