#include "moe/model/plain_model.h"

#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/model/gate.h"

namespace conclave {
namespace {

using Vec = std::vector<double>;

class PlainModel {
 public:
  explicit PlainModel(const Checkpoint& checkpoint) : checkpoint_(checkpoint), spec_(checkpoint.spec()) {}

  std::vector<Vec> Logits(absl::Span<const int32_t> ids) {
    std::vector<Vec> rows;
    for (const int32_t id : ids) rows.push_back(MatrixRow("model.embed_tokens.weight", spec_.vocab, spec_.hidden, id));
    for (int layer = 0; layer < spec_.layers; ++layer) {
      prefix_ = absl::StrCat("model.layers.", layer, ".");
      Attention(rows);
      for (Vec& row : rows) {
        const Vec x = Norm(row, prefix_ + "post_attention_layernorm.weight", spec_.rms_norm_eps);
        Add(spec_.IsMoe(LayerId{layer}) ? Moe(x) : Ffn(x, prefix_ + "mlp", spec_.dense_intermediate), row);
      }
    }
    const char* head = spec_.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    std::vector<Vec> logits;
    for (const Vec& row : rows) {
      logits.push_back(Linear(Norm(row, "model.norm.weight", spec_.rms_norm_eps), head, spec_.vocab));
    }
    return logits;
  }

 private:
  static double At(const WeightView& w, int64_t row, int64_t col) {
    return static_cast<double>(StoredValue(w, row, col)) * ScaleOf(w, row, col);
  }
  WeightView Matrix(const std::string& name, int64_t rows, int64_t cols) const {
    auto weight = checkpoint_.Weight(name, rows, cols);
    CONCLAVE_CHECK(weight.ok()) << weight.status();
    return *weight;
  }
  Vec MatrixRow(const std::string& name, int64_t rows, int64_t cols, int64_t row) const {
    const WeightView weight = Matrix(name, rows, cols);
    Vec out(cols);
    for (int64_t col = 0; col < cols; ++col) out[col] = At(weight, row, col);
    return out;
  }
  std::vector<float> Vector(const std::string& name, int64_t size) const {
    auto vector = checkpoint_.Vector(name, size);
    CONCLAVE_CHECK(vector.ok()) << vector.status();
    return *vector;
  }
  Vec Linear(const Vec& x, const std::string& name, int64_t rows) const {
    const WeightView weight = Matrix(name, rows, static_cast<int64_t>(x.size()));
    Vec out(rows);
    for (int64_t n = 0; n < rows; ++n) {
      for (size_t k = 0; k < x.size(); ++k) out[n] += x[k] * At(weight, n, static_cast<int64_t>(k));
    }
    return out;
  }
  Vec Biased(Vec x, const std::string& name) const {
    if (!spec_.attention.bias) return x;
    const std::vector<float> bias = Vector(prefix_ + name, static_cast<int64_t>(x.size()));
    for (size_t i = 0; i < x.size(); ++i) x[i] += bias[i];
    return x;
  }
  Vec Norm(const Vec& x, const std::string& name, double eps) const {
    const std::vector<float> weight = Vector(name, static_cast<int64_t>(x.size()));
    double squares = 0;
    for (const double value : x) squares += value * value;
    Vec out(x.size());
    for (size_t i = 0; i < x.size(); ++i) out[i] = x[i] * weight[i] / std::sqrt(squares / x.size() + eps);
    return out;
  }
  static void Add(const Vec& x, Vec& to) {
    for (size_t i = 0; i < to.size(); ++i) to[i] += x[i];
  }

  // Rotates the last `rope` values of x; only models without YaRN (the reference models cover that).
  void Rotate(int position, double* x) const {
    CONCLAVE_CHECK(!spec_.attention.yarn.has_value()) << "plain_model has no YaRN";
    const int dim = spec_.attention.qk_rope_head_dim;
    for (int i = 0; i < dim / 2; ++i) {
      const double angle = position * std::pow(spec_.attention.rope_theta, -2.0 * i / dim);
      double& a = spec_.attention.rope_interleaved ? x[2 * i] : x[i];
      double& b = spec_.attention.rope_interleaved ? x[2 * i + 1] : x[i + dim / 2];
      const double turned = a * std::cos(angle) - b * std::sin(angle);
      b = b * std::cos(angle) + a * std::sin(angle);
      a = turned;
    }
  }

  void Attention(std::vector<Vec>& rows) const {
    const AttentionSpec& mla = spec_.attention;
    const int nope = mla.qk_nope_head_dim, wide = mla.qk_head_dim(), value = mla.v_head_dim;
    const std::string attention = prefix_ + "self_attn.";
    std::vector<Vec> queries, expanded, shared_keys;
    for (size_t position = 0; position < rows.size(); ++position) {
      const Vec x = Norm(rows[position], prefix_ + "input_layernorm.weight", spec_.rms_norm_eps);
      Vec query;
      if (mla.q_lora_rank > 0) {
        const Vec latent = Biased(Linear(x, attention + "q_a_proj.weight", mla.q_lora_rank), "self_attn.q_a_proj.bias");
        query = Linear(Norm(latent, attention + "q_a_layernorm.weight", 1e-6), attention + "q_b_proj.weight",
                       mla.heads * wide);
      } else {
        query = Linear(x, attention + "q_proj.weight", mla.heads * wide);
      }
      for (int head = 0; head < mla.heads; ++head) Rotate(static_cast<int>(position), &query[head * wide + nope]);
      Vec compressed = Biased(Linear(x, attention + "kv_a_proj_with_mqa.weight", mla.cache_width()),
                              "self_attn.kv_a_proj_with_mqa.bias");
      Vec key(compressed.begin() + mla.kv_lora_rank, compressed.end());
      compressed.resize(mla.kv_lora_rank);
      Rotate(static_cast<int>(position), key.data());
      expanded.push_back(Linear(Norm(compressed, attention + "kv_a_layernorm.weight", 1e-6),
                                attention + "kv_b_proj.weight", mla.heads * (nope + value)));
      queries.push_back(std::move(query));
      shared_keys.push_back(std::move(key));
    }
    for (size_t row = 0; row < rows.size(); ++row) {
      Vec out(mla.heads * value);
      for (int head = 0; head < mla.heads; ++head) {
        Vec weights(row + 1);
        double sum = 0;
        for (size_t t = 0; t <= row; ++t) {
          double score = 0;
          const double* query = &queries[row][head * wide];
          for (int i = 0; i < nope; ++i) score += query[i] * expanded[t][head * (nope + value) + i];
          for (int i = nope; i < wide; ++i) score += query[i] * shared_keys[t][i - nope];
          sum += weights[t] = std::exp(score / std::sqrt(wide));
        }
        for (size_t t = 0; t <= row; ++t) {
          for (int i = 0; i < value; ++i) {
            out[head * value + i] += weights[t] / sum * expanded[t][head * (nope + value) + nope + i];
          }
        }
      }
      Add(Biased(Linear(out, attention + "o_proj.weight", spec_.hidden), "self_attn.o_proj.bias"), rows[row]);
    }
  }

  Vec Ffn(const Vec& x, const std::string& prefix, int intermediate) const {
    Vec gate = Linear(x, prefix + ".gate_proj.weight", intermediate);
    const Vec up = Linear(x, prefix + ".up_proj.weight", intermediate);
    for (int i = 0; i < intermediate; ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
    return Linear(gate, prefix + ".down_proj.weight", spec_.hidden);
  }

  Vec Moe(const Vec& x) const {
    const Vec logits = Linear(x, prefix_ + "mlp.gate.weight", spec_.gate.experts);
    std::vector<float> scores(logits.begin(), logits.end()), scratch(spec_.gate.experts), weights(spec_.gate.top_k);
    std::vector<int32_t> experts(spec_.gate.top_k);
    std::vector<float> bias;
    if (spec_.gate.has_selection_bias) bias = Vector(prefix_ + "mlp.gate.e_score_correction_bias", spec_.gate.experts);
    SelectExperts(spec_.gate, bias, absl::MakeSpan(scores), absl::MakeSpan(scratch), absl::MakeSpan(experts),
                  absl::MakeSpan(weights));
    Vec out(spec_.hidden);
    if (spec_.shared_experts > 0) {
      out = Ffn(x, prefix_ + "mlp.shared_experts", spec_.moe_intermediate * spec_.shared_experts);
    }
    for (int k = 0; k < spec_.gate.top_k; ++k) {
      const Vec row = Ffn(x, absl::StrCat(prefix_, "mlp.experts.", experts[k]), spec_.moe_intermediate);
      for (int i = 0; i < spec_.hidden; ++i) out[i] += weights[k] * row[i];
    }
    return out;
  }

  const Checkpoint& checkpoint_;
  const ModelSpec& spec_;
  std::string prefix_;
};

}  // namespace

std::vector<std::vector<double>> PlainLogits(const Checkpoint& checkpoint, absl::Span<const int32_t> ids) {
  return PlainModel(checkpoint).Logits(ids);
}

}  // namespace conclave
