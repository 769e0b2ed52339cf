// Products of 8-bit integers with AMX: many rows by tiles, few by AVX-512's dot products. Empty where the compiler
// has no AMX.
#include "moe/kernels/cpu/raw_int8.h"

#if (defined(__AMX_INT8__) || defined(__AMXINT8__)) && defined(__AVX512VNNI__)
#include "moe/kernels/cpu/amx_int8_copied.inl"
#include "moe/kernels/cpu/amx_int8_direct.inl"
#include "moe/kernels/cpu/int8_few.inl"

namespace conclave {
namespace CONCLAVE_ISA {

// From more rows on tiles are faster, although a tile of five columns takes as long as one of sixteen.
inline constexpr int64_t kFewRowsMax = 4;

void LinearInt8(const cpu::RawInt8Linear& args) {
  using cpu::Int8Scaling;
  if (args.x.rows <= kFewRowsMax) return LinearInt8Few(args);
  const bool int4 = args.w.element == cpu::Element::kInt4;
  switch (cpu::ScalingOf(args.w, args.x.depth)) {
    case Int8Scaling::kRow:
      return int4 ? RunCopiedTiles<true, Int8Scaling::kRow>(args) : RunDirectTiles<Int8Scaling::kRow>(args);
    case Int8Scaling::kBlock:
      return int4 ? RunCopiedTiles<true, Int8Scaling::kBlock>(args) : RunDirectTiles<Int8Scaling::kBlock>(args);
    case Int8Scaling::kGroup:
      return int4 ? RunCopiedTiles<true, Int8Scaling::kGroup>(args) : RunCopiedTiles<false, Int8Scaling::kGroup>(args);
  }
}

}  // namespace CONCLAVE_ISA

namespace cpu {
extern constinit const RawInt8 kAmxInt8 = {CONCLAVE_ISA::kFewRowsMax,
                                           &CONCLAVE_ISA::PackInt8<CONCLAVE_ISA::kFewRowsMax>,
                                           &CONCLAVE_ISA::LinearInt8};
}  // namespace cpu
}  // namespace conclave

#else
namespace conclave::cpu {
extern constinit const RawInt8 kAmxInt8 = {4, nullptr, nullptr};
}  // namespace conclave::cpu
#endif
