// Floats into the codes of quantised weights: scales of groups, and rounding to them.
#ifndef CONCLAVE_MOE_CHECKPOINT_INTEGER_CODES_H_
#define CONCLAVE_MOE_CHECKPOINT_INTEGER_CODES_H_

#include <cstdint>

#include "absl/types/span.h"

namespace conclave {

// The scale of a group of finite values as symmetric integers of `bits` (4 or 8) bits: a bfloat16, positive. For 8 bits
// the largest magnitude over 127; for 4 bits the one of a few around that which leaves the least squared error, as
// three bits of mantissa are too few to spend one on an outlier.
float IntegerScale(absl::Span<const float> values, int bits);

// round(value / scale), ties to even, within [-2^(bits - 1), 2^(bits - 1) - 1].
int IntegerCode(float value, float scale, int bits);

// Writes the codes of one row: `bits` 8: bytes u = code + 128; 4: two to a byte, the even one in the lower half,
// u = code + 8 (see WeightCode). scales: one for each `group_cols` values. out: values.size() * bits / 8 bytes.
// REQUIRES: bits 8, or an even number of values
void EncodeIntegers(absl::Span<const float> values, absl::Span<const float> scales, int group_cols, int bits,
                    uint8_t* out);

}  // namespace conclave

#endif  // CONCLAVE_MOE_CHECKPOINT_INTEGER_CODES_H_
