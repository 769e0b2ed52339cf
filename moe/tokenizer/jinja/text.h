// Text that remembers where it comes from: from the template, or from what a user wrote.
#ifndef CONCLAVE_MOE_TOKENIZER_JINJA_TEXT_H_
#define CONCLAVE_MOE_TOKENIZER_JINJA_TEXT_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace conclave::jinja {

class Text {
 public:
  // Stretches of one origin: each ends at `end` and begins where the one before ends.
  struct Run {
    size_t end;
    bool from_template;
  };

  Text() = default;
  Text(absl::string_view bytes, bool from_template) { Append(bytes, from_template); }

  const std::string& bytes() const { return bytes_; }
  const std::vector<Run>& runs() const { return runs_; }
  size_t size() const { return bytes_.size(); }

  void Append(absl::string_view bytes, bool from_template);
  // Appends bytes [begin, end) of `other` with their origin. REQUIRES: begin <= end <= other.size()
  void Append(const Text& other, size_t begin, size_t end);
  void Append(const Text& other) { Append(other, 0, other.size()); }
  // Bytes [begin, end).
  Text Sub(size_t begin, size_t end) const;
  // Whether the byte at `at` comes from the template. REQUIRES: at < size()
  bool FromTemplate(size_t at) const;

  // Replaces each byte by function(byte); origins stay.
  template <typename Function>
  void Transform(Function function) {
    for (char& c : bytes_) c = function(c);
  }

 private:
  std::string bytes_;
  std::vector<Run> runs_;
};

// The part of `text` without the white space at its ends, as str.strip() gives it; or at one end only.
struct ByteRange {
  size_t begin, end;
};
ByteRange StripSpace(absl::string_view text, bool left, bool right);

}  // namespace conclave::jinja

#endif  // CONCLAVE_MOE_TOKENIZER_JINJA_TEXT_H_
