#include "moe/kernels/cpu/cpu_features.h"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace conclave::cpu {

#if defined(__x86_64__)
namespace {

struct Registers {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};

Registers CpuId(uint32_t leaf, uint32_t subleaf) {
  Registers r;
  if (__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d) == 0) return Registers{};
  return r;
}

// XCR0: which register states the operating system saves and restores.
uint64_t SavedStates() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// Tiles are large: Linux saves them only for processes that asked (Documentation/arch/x86/xstate.rst).
bool MayUseTiles() {
  constexpr int kArchReqXcompPerm = 0x1023, kXfeatureTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) == 0;
}

bool Has(uint32_t value, int bit) { return (value >> bit & 1u) != 0; }

}  // namespace

// Bits as in Intel's SDM, volume 2, CPUID.
CpuFeatures DetectCpuFeatures() {
  CpuFeatures features;
  const Registers basic = CpuId(1, 0);
  constexpr int kOsXsave = 27, kAvx = 28, kFma = 12, kF16c = 29;
  if (!Has(basic.c, kOsXsave) || !Has(basic.c, kAvx)) return features;
  const uint64_t saved = SavedStates();
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6;
  const Registers extended = CpuId(7, 0);
  constexpr int kAvx2 = 5, kF = 16, kDq = 17, kBw = 30, kVl = 31, kVbmi = 1, kVnni = 11, kBf16 = 5;
  features.avx2 = (saved & kYmm) == kYmm && Has(extended.b, kAvx2) && Has(basic.c, kFma) && Has(basic.c, kF16c);
  features.avx512 = features.avx2 && (saved & kZmm) == kZmm && Has(extended.b, kF) && Has(extended.b, kDq) &&
                    Has(extended.b, kBw) && Has(extended.b, kVl);
  features.avx512_bf16 =
      features.avx512 && Has(extended.c, kVbmi) && Has(extended.c, kVnni) && Has(CpuId(7, 1).a, kBf16);
  constexpr uint64_t kTiles = 0x60000;
  constexpr int kAmxBf16 = 22, kAmxTile = 24, kAmxInt8 = 25, kGfni = 8;
  features.amx = features.avx512_bf16 && (saved & kTiles) == kTiles && Has(extended.d, kAmxBf16) &&
                 Has(extended.d, kAmxTile) && Has(extended.d, kAmxInt8) && Has(extended.c, kGfni) && MayUseTiles();
  return features;
}
#else
CpuFeatures DetectCpuFeatures() { return CpuFeatures{}; }
#endif

}  // namespace conclave::cpu
