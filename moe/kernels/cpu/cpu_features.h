// Which instruction sets this CPU and its operating system run, asked of CPUID (and for tiles of Linux) once per call.
#ifndef CONCLAVE_MOE_KERNELS_CPU_CPU_FEATURES_H_
#define CONCLAVE_MOE_KERNELS_CPU_CPU_FEATURES_H_

namespace conclave::cpu {

// Each is true only where the operating system saves the registers too. All are false on other architectures.
struct CpuFeatures {
  bool avx2 = false;         // AVX2, FMA and F16C
  bool avx512 = false;       // all of avx2, and AVX-512 F, BW, DQ and VL
  bool avx512_bf16 = false;  // all of avx512, and AVX-512 BF16 and VBMI
  bool amx = false;          // all of avx512_bf16, and AMX tiles with BF16, which Linux grants a process that asks
};
CpuFeatures DetectCpuFeatures();

}  // namespace conclave::cpu

#endif  // CONCLAVE_MOE_KERNELS_CPU_CPU_FEATURES_H_
