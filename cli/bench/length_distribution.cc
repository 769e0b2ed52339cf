#include "cli/bench/length_distribution.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "moe/base/limits.h"

namespace conclave {
namespace {

bool ParseLength(absl::string_view text, int* length) {
  return absl::SimpleAtoi(text, length) && *length >= 1 && *length <= limits::kContextMax;
}

}  // namespace

absl::StatusOr<LengthDistribution> LengthDistribution::Parse(const std::string& text) {
  LengthDistribution lengths;
  absl::string_view rest = text;
  bool good = false;
  if (absl::ConsumePrefix(&rest, "uniform:")) {
    const std::vector<absl::string_view> ends = absl::StrSplit(rest, '-');
    lengths.kind_ = Kind::kUniform;
    good = ends.size() == 2 && ParseLength(ends[0], &lengths.minimum_) && ParseLength(ends[1], &lengths.maximum_) &&
           lengths.minimum_ <= lengths.maximum_;
  } else if (absl::ConsumePrefix(&rest, "lognormal:")) {
    const std::vector<absl::string_view> parts = absl::StrSplit(rest, ',');
    lengths.kind_ = Kind::kLogNormal;
    lengths.maximum_ = limits::kContextMax;
    good = (parts.size() == 2 || parts.size() == 3) && absl::SimpleAtod(parts[0], &lengths.median_) &&
           lengths.median_ >= 1 && lengths.median_ <= limits::kContextMax &&
           absl::SimpleAtod(parts[1], &lengths.sigma_) && lengths.sigma_ >= 0 && lengths.sigma_ <= 10 &&
           (parts.size() == 2 || ParseLength(parts[2], &lengths.maximum_));
  } else {
    absl::ConsumePrefix(&rest, "fixed:");
    good = ParseLength(rest, &lengths.minimum_);
    lengths.maximum_ = lengths.minimum_;
  }
  if (good) return lengths;
  return absl::InvalidArgumentError(
      absl::StrCat("takes a number of tokens, uniform:MIN-MAX or lognormal:MEDIAN,SIGMA[,MAX], not '", text, "'"));
}

int LengthDistribution::Draw(RandomNumbers& random) const {
  switch (kind_) {
    case Kind::kFixed:
      return minimum_;
    case Kind::kUniform:
      return minimum_ + static_cast<int>(random.Below(static_cast<uint64_t>(maximum_ - minimum_) + 1));
    case Kind::kLogNormal:
      break;
  }
  const double length = std::round(median_ * std::exp(sigma_ * random.Normal()));
  return static_cast<int>(std::clamp(length, 1.0, static_cast<double>(maximum_)));
}

}  // namespace conclave
