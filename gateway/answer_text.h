// The text of one answer as its ids come: whole characters only, no end-of-sequence token, and nothing of a stop text.
#ifndef CONCLAVE_GATEWAY_ANSWER_TEXT_H_
#define CONCLAVE_GATEWAY_ANSWER_TEXT_H_

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "conclave/v1/control.pb.h"
#include "conclave/v1/inference.pb.h"
#include "gateway/served_model.h"
#include "gateway/stop_matcher.h"
#include "moe/tokenizer/detokenizer.h"

namespace conclave {

// What ends an answer besides its length and the end-of-sequence ids.
struct AnswerStops {
  std::vector<std::string> texts;  // none is empty
  std::vector<int32_t> ids;        // ascending
};

// One per answer; used by one thread at a time. `model` must outlive it.
class AnswerText {
 public:
  // `shown_ids`: special tokens that are text here, ascending.
  AnswerText(const ServedModel& model, const AnswerStops& stops, absl::Span<const int32_t> shown_ids = {});

  // Takes the ids of `response`, with their log probabilities and experts where it has any, and adds to `chunk` the
  // text that became certain, and what belongs to the ids whose text is out. True: a stop text is complete, which ends
  // the answer; ids after it are not looked at, and those whose whole text belongs to it are left out.
  // Ids that the model has and the tokenizer lacks have no text. INTERNAL: an id that the model does not have, or log
  // probabilities or experts of another number.
  absl::StatusOr<bool> Append(const v1::DecodeResponse& response, v1::GenerateResponse& chunk);
  // The end of an answer: what was held back comes out, and an incomplete character becomes U+FFFD. True as above.
  bool Flush(v1::GenerateResponse& chunk);
  // Ids taken so far, those of a stop text included.
  int tokens() const { return tokens_; }

 private:
  // An id whose text is not out yet. Offsets count the bytes of the answer's whole text.
  struct Held {
    int32_t id;
    v1::TokenLogprob logprob;
    v1::TokenExperts experts;
    int64_t begin, end;
  };

  std::string TextOfId(int32_t id);
  bool AppendText(const std::string& text, v1::GenerateResponse& chunk);
  void Release(bool stopped, v1::GenerateResponse& chunk);

  const ServedModel& model_;
  const std::vector<int32_t> stop_ids_;
  const std::vector<int32_t> shown_ids_;
  Detokenizer detokenizer_;
  StopMatcher matcher_;
  std::deque<Held> held_;
  bool logprobs_ = false, experts_ = false;
  int tokens_ = 0;
  int64_t decoded_ = 0, released_ = 0;  // bytes of text
};

// The text of `ids` as that of an answer: without end-of-sequence and special tokens. REQUIRES: ids the model has
std::string TextOf(const ServedModel& model, absl::Span<const int32_t> ids);

// Sets the token's bytes, here and in `top`.
void SetTokenBytes(const ServedModel& model, v1::TokenLogprob& logprob);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_ANSWER_TEXT_H_
