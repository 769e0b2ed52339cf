#include "cli/progress_bar.h"

#include <unistd.h>

#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
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

ProgressBar::ProgressBar(std::string unit) : unit_(std::move(unit)), terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::cerr << "\r\033[K" << std::flush;
}

void ProgressBar::Update(int64_t done, int64_t total) {
  if (!terminal_ || total <= 0 || absl::Now() - last_ < absl::Milliseconds(100)) return;
  last_ = absl::Now();
  const int filled = static_cast<int>(done * kWidth / total);
  const std::string amounts = unit_.empty() ? absl::StrCat(SizeText(done), " of ", SizeText(total))
                                            : absl::StrCat(done, " of ", total, " ", unit_);
  std::cerr << absl::StrFormat("\r[%-*s] %3d%%  %s", kWidth, std::string(static_cast<size_t>(filled), '#'),
                               done * 100 / total, amounts)
            << std::flush;
  drawn_ = true;
}

}  // namespace conclave
