#include "cli/progress_bar.h"

#include <unistd.h>

#include <iostream>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace conclave {
namespace {

constexpr int kWidth = 40;

}  // namespace

std::string SizeText(int64_t bytes) {
  return bytes >= 100'000'000 ? absl::StrFormat("%.2f GB", static_cast<double>(bytes) / 1e9)
                              : absl::StrFormat("%.1f MB", static_cast<double>(bytes) / 1e6);
}

ProgressBar::ProgressBar() : terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::cerr << "\r\033[K" << std::flush;
}

void ProgressBar::Update(int64_t bytes_done, int64_t bytes_total) {
  if (!terminal_ || bytes_total <= 0 || absl::Now() - last_ < absl::Milliseconds(100)) return;
  last_ = absl::Now();
  const int filled = static_cast<int>(bytes_done * kWidth / bytes_total);
  std::cerr << absl::StrFormat("\r[%-*s] %3d%%  %s of %s", kWidth, std::string(static_cast<size_t>(filled), '#'),
                               bytes_done * 100 / bytes_total, SizeText(bytes_done), SizeText(bytes_total))
            << std::flush;
  drawn_ = true;
}

}  // namespace conclave
