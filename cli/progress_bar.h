// How far a long piece of work is, for people.
#ifndef CONCLAVE_CLI_PROGRESS_BAR_H_
#define CONCLAVE_CLI_PROGRESS_BAR_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace conclave {

// "1.23 GB" or "0.4 MB".
std::string SizeText(int64_t bytes);

// One line on standard error that is rewritten in place, and taken away at the end; silent where that is no terminal.
class ProgressBar {
 public:
  // Of what it counts: "tokens", say; empty: bytes.
  explicit ProgressBar(std::string unit = "");
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void Update(int64_t done, int64_t total);

 private:
  const std::string unit_;
  const bool terminal_;
  bool drawn_ = false;
  absl::Time last_ = absl::InfinitePast();
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_PROGRESS_BAR_H_
