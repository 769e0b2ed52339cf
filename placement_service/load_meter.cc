#include "placement_service/load_meter.h"

#include <algorithm>
#include <cmath>

namespace conclave {

double LoadMeter::Decay(absl::Duration age) const { return std::exp2(-absl::FDivDuration(age, half_life_)); }

void LoadMeter::Read(const std::string& address, absl::Span<const LayerTokens> tokens, absl::Time now) {
  for (const LayerTokens& layer : tokens) {
    const auto [found, fresh] = series_.try_emplace({address, layer.layer});
    Series& series = found->second;
    if (fresh && !since_start_) series.counters = layer.tokens;
    series.counters.resize(layer.tokens.size());
    series.tokens.resize(layer.tokens.size());
    bool restarted = false;
    for (size_t i = 0; i < layer.tokens.size(); ++i) restarted |= layer.tokens[i] < series.counters[i];
    const double decay = fresh ? 1 : Decay(now - series.read_at);
    for (size_t i = 0; i < layer.tokens.size(); ++i) {
      const uint64_t before = restarted ? 0 : series.counters[i];
      series.tokens[i] = series.tokens[i] * decay + static_cast<double>(layer.tokens[i] - before);
      series.counters[i] = layer.tokens[i];
    }
    series.read_at = now;
  }
}

void LoadMeter::Keep(absl::Span<const std::string> addresses) {
  for (auto it = series_.begin(); it != series_.end();) {
    const bool kept = std::find(addresses.begin(), addresses.end(), it->first.first) != addresses.end();
    it = kept ? std::next(it) : series_.erase(it);
  }
}

std::vector<double> LoadMeter::Tokens(const std::string& address, LayerId layer, absl::Time now) const {
  const auto found = series_.find({address, layer});
  if (found == series_.end()) return {};
  std::vector<double> tokens = found->second.tokens;
  for (double& count : tokens) count *= Decay(now - found->second.read_at);
  return tokens;
}

}  // namespace conclave
