#include "moe/transport/checksum.h"

#include <xxhash.h>

#include <memory>

namespace conclave {
namespace {

// Rows without the gaps between them, one hash after the other.
uint64_t HashRows(ConstMatView rows, uint64_t seed) {
  const size_t row_bytes = static_cast<size_t>(rows.cols * SizeOf(rows.dtype));
  if (rows.rows == 0) return seed;
  if (rows.stride == rows.cols) {
    return XXH3_64bits_withSeed(rows.data, static_cast<size_t>(rows.rows) * row_bytes, seed);
  }
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  XXH3_64bits_reset_withSeed(state.get(), seed);
  for (int64_t row = 0; row < rows.rows; ++row) XXH3_64bits_update(state.get(), rows.RowBytes(row), row_bytes);
  return XXH3_64bits_digest(state.get());
}

}  // namespace

uint64_t ChecksumOfCall(const ExpertCall& call) {
  const uint64_t head[] = {call.call_id, call.placement_epoch, static_cast<uint64_t>(Value(call.layer)),
                           static_cast<uint64_t>(call.rows.rows), static_cast<uint64_t>(call.rows.cols)};
  uint64_t hash = XXH3_64bits(head, sizeof(head));
  hash = XXH3_64bits_withSeed(call.row_offsets.data(), call.row_offsets.size() * sizeof(uint32_t), hash);
  if (!call.experts.empty()) {
    hash = XXH3_64bits_withSeed(call.experts.data(), call.experts.size() * sizeof(int32_t), hash);
  }
  return HashRows(call.rows, hash);
}

uint64_t ChecksumOfReply(uint64_t call_id, ConstMatView rows) { return HashRows(rows, call_id); }

uint64_t ChecksumOfError(uint64_t call_id, int code, absl::string_view message) {
  const uint64_t head[] = {call_id, static_cast<uint64_t>(code)};
  return XXH3_64bits_withSeed(message.data(), message.size(), XXH3_64bits(head, sizeof(head)));
}

}  // namespace conclave
