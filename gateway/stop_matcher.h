// Finds the first of some texts in a text that comes piece by piece, and holds back whatever may still become one.
#ifndef CONCLAVE_GATEWAY_STOP_MATCHER_H_
#define CONCLAVE_GATEWAY_STOP_MATCHER_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace conclave {

// One per answer; used by one thread at a time. Time is linear in the text, however the texts repeat themselves: each
// is followed by an automaton (Knuth, Morris, Pratt 1977). What is found does not depend on where the pieces begin.
class StopMatcher {
 public:
  // None of `stops` may be empty; without any nothing is ever held back.
  explicit StopMatcher(const std::vector<std::string>& stops);

  // Takes the next piece and appends to `out` what has become certain: it is neither within a stop text nor the
  // beginning of one. True: a stop text is complete. `out` then ends where that text begins (the longest of those that
  // are complete at the same byte), and nothing more must be appended.
  bool Append(absl::string_view text, std::string* out);
  // Which of the stops was complete, by its place in the list; -1: none yet.
  int found() const { return found_; }
  // The end of the text: what was held back is no stop text after all.
  std::string Flush();

 private:
  struct Stop {
    std::string text;
    std::vector<size_t> border;  // [text.size()] longest proper border of text[0..i], to fall back to
    size_t matched = 0;          // bytes at the end of what came that equal the beginning of `text`
  };
  std::vector<Stop> stops_;
  std::string held_;
  int found_ = -1;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_STOP_MATCHER_H_
