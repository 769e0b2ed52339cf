// Answers in the JSON of OpenAI's API: whole objects and the chunks of a stream. Pure functions.
#ifndef CONCLAVE_GATEWAY_HTTP_ANSWER_JSON_H_
#define CONCLAVE_GATEWAY_HTTP_ANSWER_JSON_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "conclave/v1/inference.pb.h"

namespace conclave {

// What stands in every object of one answer.
struct AnswerHead {
  bool chat = false;
  std::string id;     // "chatcmpl-…" or "cmpl-…"
  std::string model;  // the name served
  std::string system_fingerprint;
  int64_t created = 0;  // Unix time in seconds
};

// Tokens as the clients are billed for them, over all choices.
struct AnswerUsage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;
};

// A token and the experts behind it.
struct TokenWithExperts {
  int32_t id = 0;
  v1::TokenExperts experts;
};

// One choice, or the part of it that one chunk of a stream carries.
struct AnswerPiece {
  int index = 0;
  bool has_role = false;  // the first of a streamed chat
  std::string text;
  std::string reasoning;  // of a chat, where asked for by flag
  bool has_reasoning = false;
  std::vector<v1::ToolCallDelta> tool_calls;  // of a whole answer: one each call, ascending
  std::string finish_reason;                  // empty: none yet
  std::string logits_hash;    // empty: not asked for
  bool has_logprobs = false;
  std::vector<v1::TokenLogprob> logprobs;
  int first_without = 0;    // of `logprobs`: 1 where the first token follows nothing, so that it has no probability
  std::vector<TokenWithExperts> token_experts;  // empty: not asked for, or no token here
  int64_t text_offset = 0;  // where `logprobs` begin in the choice's text, in characters
};

// The whole body.
std::string WholeAnswer(const AnswerHead& head, absl::Span<const AnswerPiece> choices, const AnswerUsage& usage);
// One event's JSON. `usage`: null or what it says, where the client wants it in the stream.
enum class ChunkUsage { kAbsent, kNull, kGiven };
std::string ChunkOfAnswer(const AnswerHead& head, const AnswerPiece& piece, ChunkUsage with_usage,
                          const AnswerUsage& usage);
// The last chunk of a stream that was asked for usage: no choices.
std::string UsageChunk(const AnswerHead& head, const AnswerUsage& usage);

// "data: …\n\n".
std::string SseEvent(absl::string_view json);
inline constexpr absl::string_view kSseDone = "data: [DONE]\n\n";
inline constexpr char kSsePing[] = ": ping\n\n";

// A token's own text, as completions name it: bytes that are no whole characters as "bytes:\xe4\xbd".
std::string TokenName(const std::string& bytes);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_ANSWER_JSON_H_
