// Arithmetic that a host and a device do alike to the last bit: each operation is rounded once, none is fused, and no
// library is asked.
#ifndef CONCLAVE_MOE_KERNELS_ROUNDED_MATH_H_
#define CONCLAVE_MOE_KERNELS_ROUNDED_MATH_H_

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define CONCLAVE_ON_BOTH __host__ __device__ inline
#else
#define CONCLAVE_ON_BOTH inline
#endif

namespace conclave::rounded {

#ifdef __CUDA_ARCH__
// Each rounds once: no compiler makes one fused operation of two.
CONCLAVE_ON_BOTH double Times(double a, double b) { return __dmul_rn(a, b); }
CONCLAVE_ON_BOTH double Plus(double a, double b) { return __dadd_rn(a, b); }
CONCLAVE_ON_BOTH float Times(float a, float b) { return __fmul_rn(a, b); }
CONCLAVE_ON_BOTH float Plus(float a, float b) { return __fadd_rn(a, b); }
#else
// Built with -ffp-contract=off.
CONCLAVE_ON_BOTH double Times(double a, double b) { return a * b; }
CONCLAVE_ON_BOTH double Plus(double a, double b) { return a + b; }
CONCLAVE_ON_BOTH float Times(float a, float b) { return a * b; }
CONCLAVE_ON_BOTH float Plus(float a, float b) { return a + b; }
#endif

// exp(x) for x <= 0, within 4e-16 of it relatively; 0 below -700.
CONCLAVE_ON_BOTH double ExpOfNonPositive(double x) {
  if (!(x > -700.0)) return 0.0;
  // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, so that n ln 2 loses nothing.
  constexpr double kLog2E = 1.4426950408889634, kLn2High = 0x1.62e42fefap-1, kLn2Low = 0x1.cf79abc9e3b39p-40;
  // Adding 1.5 * 2^52 rounds to the nearest integer, which then stands in the low bits.
  constexpr double kRound = 0x1.8p52;
  const double shifted = Plus(Times(x, kLog2E), kRound);
  const double n = Plus(shifted, -kRound);
  const double r = Plus(Plus(x, -Times(n, kLn2High)), -Times(n, kLn2Low));
  // Taylor's series to r^13 / 13!: the next term is below 1e-17.
  double series = 1.0 / 6227020800.0;
  series = Plus(Times(series, r), 1.0 / 479001600.0);
  series = Plus(Times(series, r), 1.0 / 39916800.0);
  series = Plus(Times(series, r), 1.0 / 3628800.0);
  series = Plus(Times(series, r), 1.0 / 362880.0);
  series = Plus(Times(series, r), 1.0 / 40320.0);
  series = Plus(Times(series, r), 1.0 / 5040.0);
  series = Plus(Times(series, r), 1.0 / 720.0);
  series = Plus(Times(series, r), 1.0 / 120.0);
  series = Plus(Times(series, r), 1.0 / 24.0);
  series = Plus(Times(series, r), 1.0 / 6.0);
  series = Plus(Times(series, r), 0.5);
  series = Plus(Times(series, r), 1.0);
  series = Plus(Times(series, r), 1.0);
  // 2^n by its exponent bits: n is in [-1010, 0] here, so the result is a normal number.
  uint64_t bits = 0;
  double power = 0;
  memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 1023) << 52;
  memcpy(&power, &bits, sizeof(power));
  return Times(series, power);
}

}  // namespace conclave::rounded

#endif  // CONCLAVE_MOE_KERNELS_ROUNDED_MATH_H_
