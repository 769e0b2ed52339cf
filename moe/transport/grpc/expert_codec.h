// Between conclave.v1 messages and the types of the transport room. What arrives is checked before it is used: these
// functions survive any message (activation_fuzz.cc).
#ifndef CONCLAVE_MOE_TRANSPORT_GRPC_EXPERT_CODEC_H_
#define CONCLAVE_MOE_TRANSPORT_GRPC_EXPERT_CODEC_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "google/protobuf/repeated_field.h"
#include "moe/base/limits.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/mat_view.h"
#include "moe/transport/expert_handler.h"
#include "moe/transport/transport.h"
#include "moe/transport/validate_call.h"

namespace conclave::v1 {
class DescribeResponse;
class ExpertReply;
class ExpertRequest;
class LayerHolding;
}  // namespace conclave::v1

namespace conclave {

// The largest message that client and server take: the rows, and room for ids and framing.
inline constexpr int kExpertMessageBytesMax = static_cast<int>(limits::kCallBytesMax) + (16 << 20);

// Stream metadata by which a router says what it expects; a shard refuses a stream that expects something else.
// It is repeated with every stream, so that a shard which came back as another model is noticed.
inline constexpr char kModelFingerprintKey[] = "conclave-model-fingerprint";
inline constexpr char kNumericProfileKey[] = "conclave-numeric-profile";
// And by which it says who it is: 1 to 200 bytes, for the shard's log and its count of offences.
inline constexpr char kPeerNameKey[] = "conclave-peer";
inline constexpr size_t kPeerNameBytesMax = 200;

// A checked request. `call` points into the message and into what else is here, so it lives no longer than either.
struct DecodedCall {
  ExpertCall call;
  std::vector<uint32_t> row_offsets;
  MatBuffer unpacked;  // of rows that came packed
};

// Checks dtype, shape, lengths, offsets and ids, then fills `decoded`, whose memory is reused. Rows are not copied, but
// where they are packed.
// The deadline is `arrival` plus the request's timeout. DATA_LOSS: the message does not have the checksum that it
// brings, so that nothing in it can be believed. INVALID_ARGUMENT names the field that its sender got wrong.
absl::Status DecodeExpertRequest(const v1::ExpertRequest& proto, const CallLimits& limits, absl::Time arrival,
                                 DecodedCall* decoded);
// The reverse, as the bytes of a v1.ExpertRequest in memory that `allocate` gives for so many of them; `now` turns the
// deadline into a timeout. The rows are copied once, straight to their place, or packed there. `scratch` is reused for
// its memory. REQUIRES: ValidateExpertCall accepts the call; `packed` only where RoundToFp8 made the rows
void EncodeExpertRequest(const ExpertCall& call, absl::Time now, bool with_checksum, bool packed,
                         v1::ExpertRequest* scratch, absl::FunctionRef<uint8_t*(size_t bytes)> allocate);

// Prepares a successful reply to `call` and returns the view that its rows are to be written to:
// [pairs, hidden] in the message's own memory. An error is set by EncodeExpertError instead.
MatView PrepareExpertReply(const ExpertCall& call, v1::ExpertReply* proto);
// Adds the checksum of the rows as they are now.
void SealExpertReply(ConstMatView rows, v1::ExpertReply* proto);
// With a checksum where the request has one.
void EncodeExpertError(const v1::ExpertRequest& request, const absl::Status& status, v1::ExpertReply* proto);
// The shard's status, or OK with `out` filled. DATA_LOSS: the reply does not have the shape of `out`, or not the
// checksum that it brings or (an error may come without) should bring; `out` is then untouched.
absl::Status DecodeExpertReply(const v1::ExpertReply& proto, bool needs_checksum, MatView out);

// Which experts of which layers. INVALID_ARGUMENT: more than any model has.
absl::StatusOr<std::vector<LayerHolding>> DecodeHoldings(
    const google::protobuf::RepeatedPtrField<v1::LayerHolding>& proto);
// The reverse.
void EncodeHoldings(absl::Span<const LayerHolding> holdings,
                    google::protobuf::RepeatedPtrField<v1::LayerHolding>* proto);
// A shard's description as a message.
void EncodeDescription(const ShardDescription& description, v1::DescribeResponse* proto);
// The reverse. INVALID_ARGUMENT names the field that is out of range.
absl::StatusOr<ShardDescription> DecodeDescription(const v1::DescribeResponse& proto);
// Its tokens.
void EncodeTokens(absl::Span<const LayerTokens> tokens, v1::DescribeResponse* proto);
// The reverse. INVALID_ARGUMENT: more layers or experts than any model has.
absl::StatusOr<std::vector<LayerTokens>> DecodeTokens(const v1::DescribeResponse& proto);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_GRPC_EXPERT_CODEC_H_
