#include "moe/checkpoint/inspect.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "moe/base/check.h"
#include "moe/checkpoint/model_tensors.h"
#include "nlohmann/json.hpp"

namespace conclave {
namespace {

constexpr int kCacheValueBytes = 2;

// The stored bytes of a tensor and its block scales, or of a packed one's parts.
int64_t StoredBytes(const Checkpoint& checkpoint, const std::string& name) {
  int64_t bytes = 0;
  for (const std::string& part : {name, name + "_scale_inv", name + "_packed", name + "_scale", name + "_shape"}) {
    if (auto tensor = checkpoint.Describe(part); tensor.ok()) bytes += tensor->bytes;
  }
  return bytes;
}

std::string Size(int64_t bytes) {
  if (bytes >= 1'000'000'000) return absl::StrFormat("%.1f GB", static_cast<double>(bytes) / 1e9);
  if (bytes >= 1'000'000) return absl::StrFormat("%.1f MB", static_cast<double>(bytes) / 1e6);
  return absl::StrFormat("%.1f KB", static_cast<double>(bytes) / 1e3);
}

std::string Count(int64_t parameters) {
  if (parameters >= 1'000'000'000) return absl::StrFormat("%.2f G", static_cast<double>(parameters) / 1e9);
  return absl::StrFormat("%.2f M", static_cast<double>(parameters) / 1e6);
}

}  // namespace

ParameterCounts CountParameters(const ModelSpec& spec) {
  ParameterCounts counts;
  ForEachTensor(spec, [&](const TensorSpec& tensor) {
    const int64_t elements = tensor.elements();
    if (tensor.mtp) {
      counts.mtp += elements;
      return;
    }
    counts.total += elements;
    if (tensor.expert >= 0) counts.experts += elements;
    // The experts of a layer are alike, so that the first top_k stand for any.
    const bool looked_up = tensor.role == TensorRole::kEmbedding && !spec.tie_word_embeddings;
    if (tensor.expert < spec.gate.top_k && !looked_up) counts.active += elements;
    const bool makes_logits = tensor.role == TensorRole::kHead || tensor.role == TensorRole::kEmbedding;
    if (makes_logits && !looked_up) counts.head += elements;
  });
  return counts;
}

double PrefillOperations(const ParameterCounts& counts, int prompt_tokens) {
  CONCLAVE_CHECK(prompt_tokens >= 1) << prompt_tokens;
  const double every_token = static_cast<double>(counts.active - counts.head);
  return 2 * (every_token * prompt_tokens + static_cast<double>(counts.head));
}

ModelReport Inspect(const Checkpoint& checkpoint, int shards) {
  CONCLAVE_CHECK(shards >= 1) << shards;
  const ModelSpec& spec = checkpoint.spec();
  ModelReport report;
  report.directory = checkpoint.directory();
  report.fingerprint = checkpoint.fingerprint();
  report.spec = spec;
  report.parameters = CountParameters(spec);
  for (const std::string& name : checkpoint.TensorNames()) {
    const auto tensor = checkpoint.Describe(name);
    report.bytes_by_dtype[std::string(Name(tensor->dtype))] += tensor->bytes;
    report.bytes_total += tensor->bytes;
  }
  report.shards.resize(static_cast<size_t>(shards));
  const int64_t experts = spec.gate.experts;
  const auto shard_of = [&](int64_t expert) { return ((expert + 1) * shards - 1) / experts; };
  for (int64_t expert = 0; expert < experts; ++expert) ++report.shards[shard_of(expert)].experts_per_layer;
  ForEachTensor(spec, [&](const TensorSpec& tensor) {
    if (tensor.mtp) return;
    const int64_t bytes = StoredBytes(checkpoint, tensor.name);
    if (tensor.expert >= 0) {
      report.expert_bytes += bytes;
      report.shards[shard_of(tensor.expert)].expert_bytes += bytes;
    } else {
      report.attention_bytes += bytes;
    }
    const bool looked_up = tensor.role == TensorRole::kEmbedding && !spec.tie_word_embeddings;
    if (tensor.expert < spec.gate.top_k && !looked_up) report.active_bytes += bytes;
  });
  report.mtp_bytes = report.bytes_total - report.expert_bytes - report.attention_bytes;
  report.cache_bytes_per_token = int64_t{spec.layers} * spec.attention.cache_width() * kCacheValueBytes;
  return report;
}

std::string FamilyName(ModelFamily family) {
  switch (family) {
    case ModelFamily::kDeepSeekV2:
      return "DeepSeek-V2";
    case ModelFamily::kDeepSeekV3:
      return "DeepSeek-V3";
    case ModelFamily::kKimiK2:
      return "Kimi-K2";
  }
  return "unknown";
}

std::string ToText(const ModelReport& report) {
  const ModelSpec& spec = report.spec;
  std::string text = absl::StrCat("family       ", FamilyName(spec.family), " (", spec.model_type, ")\n");
  absl::StrAppend(&text, "parameters   ", Count(report.parameters.total), " total, ", Count(report.parameters.active),
                  " active per token");
  if (report.parameters.mtp > 0) absl::StrAppend(&text, ", ", Count(report.parameters.mtp), " in MTP layers beside");
  absl::StrAppend(&text, "\nlayers       ", spec.layers, ", of which ", spec.moe_layers(), " MoE; hidden ", spec.hidden,
                  ", ", spec.attention.heads, " heads, vocabulary ", spec.vocab, ", context ", spec.context_max, "\n");
  absl::StrAppend(&text, "experts      ", spec.gate.experts, " routed a layer, top ", spec.gate.top_k, ", ",
                  spec.shared_experts, " shared\n");
  const auto dtype_text = [](std::string* out, const std::pair<const std::string, int64_t>& row) {
    absl::StrAppend(out, row.first, " ", Size(row.second));
  };
  absl::StrAppend(&text, "stored       ", Size(report.bytes_total), ": ",
                  absl::StrJoin(report.bytes_by_dtype, ", ", dtype_text), "\n");
  absl::StrAppend(&text, "             experts ", Size(report.expert_bytes), ", attention service ",
                  Size(report.attention_bytes), ", MTP and other ", Size(report.mtp_bytes), "; read per token ",
                  Size(report.active_bytes), "\n");
  absl::StrAppend(&text, "KV cache     ", Size(report.cache_bytes_per_token), " per token in 2-byte values\n");
  absl::StrAppend(&text, "fingerprint  ", report.fingerprint, "\n");
  for (size_t shard = 0; shard < report.shards.size(); ++shard) {
    absl::StrAppendFormat(&text, "shard %-6d %d experts a layer, %s\n", shard, report.shards[shard].experts_per_layer,
                          Size(report.shards[shard].expert_bytes));
  }
  return text;
}

std::string ToJson(const ModelReport& report) {
  const ModelSpec& spec = report.spec;
  nlohmann::json json = {
      {"directory", report.directory},
      {"fingerprint", report.fingerprint},
      {"family", FamilyName(spec.family)},
      {"model_type", spec.model_type},
      {"parameters_total", report.parameters.total},
      {"parameters_active", report.parameters.active},
      {"parameters_experts", report.parameters.experts},
      {"parameters_mtp", report.parameters.mtp},
      {"layers", spec.layers},
      {"moe_layers", spec.moe_layers()},
      {"hidden", spec.hidden},
      {"vocab", spec.vocab},
      {"context_max", spec.context_max},
      {"experts_per_layer", spec.gate.experts},
      {"shared_experts", spec.shared_experts},
      {"top_k", spec.gate.top_k},
      {"bytes_total", report.bytes_total},
      {"bytes_by_dtype", report.bytes_by_dtype},
      {"expert_bytes", report.expert_bytes},
      {"attention_bytes", report.attention_bytes},
      {"mtp_bytes", report.mtp_bytes},
      {"active_bytes", report.active_bytes},
      {"cache_bytes_per_token", report.cache_bytes_per_token},
  };
  for (const ShardReport& shard : report.shards) {
    json["shards"].push_back({{"experts_per_layer", shard.experts_per_layer}, {"expert_bytes", shard.expert_bytes}});
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace conclave
