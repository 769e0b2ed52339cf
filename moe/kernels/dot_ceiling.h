// How fast a CPU's dot-product instructions go when nothing has to be read: the ceiling of every product kernel.
#ifndef CONCLAVE_MOE_KERNELS_DOT_CEILING_H_
#define CONCLAVE_MOE_KERNELS_DOT_CEILING_H_

#include <cstdint>

#include "moe/kernels/kernels.h"

namespace conclave {

// Runs the instruction that the products of `kernels` use `rounds` times over registers alone, in chains that are long
// enough to hide its latency, on the calling thread. Returns the operations done, two for a multiply-add; where a table
// splits its inputs into parts, those of one part. Of kInt8 they are integers' with AVX-512 and AMX; with less it
// multiplies in loops of many instructions, and float32's stand for them. REQUIRES: this CPU runs `kernels`
double RunDotProducts(const Kernels& kernels, int64_t rounds);

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_DOT_CEILING_H_
