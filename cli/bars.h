// Numbers as small bars of text.
#ifndef CONCLAVE_CLI_BARS_H_
#define CONCLAVE_CLI_BARS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace conclave {

// One character, in eighths of `largest`, rounded up so that whoever worked has a bar; a dot for none.
// REQUIRES: value <= largest
const char* Bar(uint64_t value, uint64_t largest);

// Sums of neighbours, so that `values` becomes at most `count` numbers. REQUIRES: count >= 1
std::vector<uint64_t> SumNeighbours(const std::vector<uint64_t>& values, int64_t count);

// The bars of all values, on the scale of the largest.
std::string Bars(const std::vector<uint64_t>& values);

}  // namespace conclave

#endif  // CONCLAVE_CLI_BARS_H_
