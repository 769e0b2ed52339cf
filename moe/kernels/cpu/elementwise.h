// Norms, activations and conversions: each element's result is the same wherever it stands in a vector.
#ifndef CONCLAVE_MOE_KERNELS_CPU_ELEMENTWISE_H_
#define CONCLAVE_MOE_KERNELS_CPU_ELEMENTWISE_H_

#include <cstdint>

#include "moe/kernels/cpu/vec.h"

namespace conclave::CONCLAVE_ISA {

// Calls body(i, count) over [0, n) in steps of kLanes; count < kLanes in the last, where n is not a multiple.
template <class Body>
inline void ForLanes(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, kLanes);
  if (i < n) body(i, static_cast<int>(n - i));
}
inline V LoadSome(const float* p, int count) { return count == kLanes ? Load(p) : LoadPartial(p, count); }
inline void StoreSome(float* p, V v, int count) {
  if (count == kLanes) {
    Store(p, v);
  } else {
    StorePartial(p, v, count);
  }
}

inline float SumOfLanes(V v) {
  float sums[4];
  Reduce4(v, v, v, v, sums);
  return sums[0];
}

// REQUIRES: no lane is NaN, or all are
inline float MaxOfLanes(V v) {
  float lanes[kLanes];
  Store(lanes, v);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
  }
  return lanes[0];
}

// e^x = 2^n * e^r with n = round(x / ln 2) and |r| <= ln(2) / 2: the Taylor polynomial of degree 7 is then within
// 1e-8. ln 2 is split so that n times its first part is exact. Arguments beyond [-87, 88] are clamped: the result
// is never subnormal nor infinite. A NaN stays a NaN.
inline V Exp(V x) {
  const V clamped = Max(Set(-87.0f), Min(Set(88.0f), x));
  const V n = Round(Mul(clamped, Set(1.44269504f)));
  const V r = Fma(n, Set(-1.42860677e-6f), Fma(n, Set(-0.693145752f), clamped));
  V sum = Fma(r, Set(1.0f / 5040), Set(1.0f / 720));
  sum = Fma(r, sum, Set(1.0f / 120));
  sum = Fma(r, sum, Set(1.0f / 24));
  sum = Fma(r, sum, Set(1.0f / 6));
  sum = Fma(r, sum, Set(0.5f));
  sum = Fma(r, sum, Set(1.0f));
  sum = Fma(r, sum, Set(1.0f));
  return Mul(sum, PowerOfTwo(n));
}

inline void RmsNorm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  V squares = Zero();
  ForLanes(n, [&](int64_t i, int count) {
    const V v = LoadSome(x + i, count);
    squares = Fma(v, v, squares);
  });
  const float mean = SumOfLanes(squares) / static_cast<float>(n);
  const V factor = Set(1.0f / __builtin_sqrtf(mean + eps));
  ForLanes(n, [&](int64_t i, int count) {
    StoreSome(out + i, Mul(Mul(LoadSome(x + i, count), factor), LoadSome(weight + i, count)), count);
  });
}

inline void SiluMul(const float* gate, const float* up, int64_t n, float* out) {
  ForLanes(n, [&](int64_t i, int count) {
    const V g = LoadSome(gate + i, count);
    const V silu = Div(g, Add(Set(1.0f), Exp(Sub(Zero(), g))));
    StoreSome(out + i, Mul(silu, LoadSome(up + i, count)), count);
  });
}

inline void ToBf16(const float* x, int64_t n, uint16_t* out) {
  ForLanes(n, [&](int64_t i, int count) {
    if (count == kLanes) {
      StoreBf16(out + i, Load(x + i));
    } else {
      StoreBf16Partial(out + i, LoadPartial(x + i, count), count);
    }
  });
}

inline void FromBf16(const uint16_t* x, int64_t n, float* out) {
  ForLanes(n, [&](int64_t i, int count) {
    StoreSome(out + i, count == kLanes ? LoadBf16(x + i) : LoadBf16Partial(x + i, count), count);
  });
}

inline void AxpyF32(float weight, const float* row, int64_t n, float* acc) {
  ForLanes(n, [&](int64_t i, int count) {
    StoreSome(acc + i, Fma(Set(weight), LoadSome(row + i, count), LoadSome(acc + i, count)), count);
  });
}

inline void AxpyBf16(float weight, const uint16_t* row, int64_t n, float* acc) {
  ForLanes(n, [&](int64_t i, int count) {
    const V v = count == kLanes ? LoadBf16(row + i) : LoadBf16Partial(row + i, count);
    StoreSome(acc + i, Fma(Set(weight), v, LoadSome(acc + i, count)), count);
  });
}

}  // namespace conclave::CONCLAVE_ISA

#endif  // CONCLAVE_MOE_KERNELS_CPU_ELEMENTWISE_H_
