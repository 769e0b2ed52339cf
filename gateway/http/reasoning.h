// Tells what a model thinks from what it says: text in <think> … </think> apart from the rest, as it streams.
#ifndef CONCLAVE_GATEWAY_HTTP_REASONING_H_
#define CONCLAVE_GATEWAY_HTTP_REASONING_H_

#include <string>

#include "absl/strings/string_view.h"

namespace conclave {

// New text by what it is.
struct ReasoningPiece {
  std::string reasoning, content;
};

// One an answer; used by one thread at a time. Tags are never part of either text, also where they come in pieces.
class ReasoningSplitter {
 public:
  // `begins_inside`: the prompt ended with <think>, so that the answer begins with thoughts.
  explicit ReasoningSplitter(bool begins_inside) : state_(begins_inside ? State::kInside : State::kStart) {}
  // What became certain with `text`.
  ReasoningPiece Add(absl::string_view text);
  // What was held back as the possible beginning of a tag.
  ReasoningPiece Flush();

 private:
  enum class State { kStart, kInside, kAfter, kContent };

  State state_;
  bool reasoning_begun_ = false;
  std::string held_;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_REASONING_H_
