#include "moe/kernels/accelerator/host_ops.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "moe/tensor/latent_row.h"

namespace conclave::host_ops {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

void Store(float value, void* data, DType dtype, int64_t index) {
  if (dtype == DType::kBF16) {
    static_cast<uint16_t*>(data)[index] = FloatToBf16(value);
  } else {
    static_cast<float*>(data)[index] = value;
  }
}

void Rotate(const RopeTable& rope, int64_t position, const float* x, float* out) {
  const int step = rope.interleaved ? 2 : 1;
  const int partner = rope.interleaved ? 1 : rope.pairs;
  for (int i = 0; i < rope.pairs; ++i) {
    const float a = x[i * step], b = x[i * step + partner];
    const float c = rope.cosines[position * rope.pairs + i], s = rope.sines[position * rope.pairs + i];
    out[i * step] = a * c - b * s;
    out[i * step + partner] = b * c + a * s;
  }
}

double NormFactor(const float* x, int64_t cols, float eps) {
  double squares = 0;
  for (int64_t i = 0; i < cols; ++i) squares += static_cast<double>(x[i]) * x[i];
  return 1.0 / std::sqrt(squares / static_cast<double>(cols) + eps);
}

// The indices of the `count` largest values, lower index first among equals; what is not a number counts as -inf.
std::vector<int32_t> TopK(const std::vector<float>& values, int count) {
  std::vector<int32_t> order(values.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  const auto key = [&](int32_t i) { return std::isnan(values[i]) ? -HUGE_VALF : values[i]; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return key(a) > key(b); });
  order.resize(count);
  return order;
}

void DropGroups(const SelectArgs& args, std::vector<float>& choice) {
  const int size = args.experts / args.groups;
  std::vector<float> scores(args.groups);
  for (int group = 0; group < args.groups; ++group) {
    std::vector<float> values(choice.begin() + group * size, choice.begin() + (group + 1) * size);
    const std::vector<int32_t> best = TopK(values, std::min(size, args.group_sum_of_two ? 2 : 1));
    for (const int32_t index : best) scores[group] += values[index];
  }
  std::vector<int32_t> kept = TopK(scores, args.groups_kept);
  for (int group = 0; group < args.groups; ++group) {
    if (std::find(kept.begin(), kept.end(), group) != kept.end()) continue;
    std::fill_n(choice.begin() + group * size, size, -HUGE_VALF);
  }
}

// The definition, without shortcuts: sort everything, then cut and draw.
int32_t DrawFrom(const float* x, int64_t cols, const TokenDraw& draw) {
  std::vector<int32_t> order(cols);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
  if (draw.takes_largest()) return order[0];
  std::vector<uint64_t> sums;  // of the weights up to and with each
  uint64_t sum = 0;
  for (const int32_t id : order) {
    const uint64_t weight = token_draw::LogitWeight(x[id], x[order[0]], 1.0 / double{draw.temperature});
    if (draw.min_p > 0 && weight < token_draw::WeightOf(draw.min_p)) break;
    sums.push_back(sum += weight);
  }
  if (draw.top_k > 0 && draw.top_k < static_cast<int64_t>(sums.size())) sums.resize(draw.top_k);
  const auto first_above = [&](uint64_t bound) { return std::upper_bound(sums.begin(), sums.end(), bound); };
  if (draw.top_p < 1) sums.erase(first_above(token_draw::BelowTopP(draw.top_p, sums.back())) + 1, sums.end());
  return order[first_above(token_draw::DrawnWeight(draw.uniform, sums.back())) - sums.begin()];
}

// Fills the words of a row but for what was drawn.
DrawnLogits TellLogits(const float* x, int64_t cols, const TokenDraw& draw, uint64_t* words) {
  std::vector<int32_t> order(cols);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
  DrawnLogits logits;
  logits.largest = x[order[0]];
  for (int64_t id = 0; id < cols; ++id) logits.total += token_draw::LogitWeight(x[id], logits.largest, 1.0);
  for (int32_t i = 0; i < draw.top_logprobs; ++i) {
    const LikelyToken token{order[i], x[order[i]]};
    std::memcpy(words + kDrawnLogitsWords + i, &token, sizeof(token));
  }
  return logits;
}

}  // namespace

float WeightAt(const DeviceWeight& weight, int64_t matrix, int64_t row, int64_t col) {
  const float value = LoadAsFloat(weight.data, weight.dtype, (matrix * weight.rows + row) * weight.cols + col);
  if (weight.scales == nullptr) return value;
  const int64_t scale_cols = CeilDiv(weight.cols, weight.block_cols);
  const int64_t scale_rows = CeilDiv(weight.rows, weight.block_rows);
  return value * weight.scales[(matrix * scale_rows + row / weight.block_rows) * scale_cols + col / weight.block_cols];
}

void Embed(const EmbedArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    args.fault_layer[r] = kNoFault;
    for (int64_t i = 0; i < args.table.cols; ++i) {
      args.out[r * args.table.cols + i] = WeightAt(args.table, 0, args.tokens[r], i);
    }
  }
}

void RmsNorm(const NormArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* x = args.x + (args.row_index == nullptr ? r : args.row_index[r]) * args.x_stride;
    const double factor = NormFactor(x, args.cols, args.eps);
    for (int64_t i = 0; i < args.cols; ++i) {
      Store(static_cast<float>(x[i] * factor * args.weight[i]), args.out, args.out_dtype, r * args.out_stride + i);
    }
  }
}

void Linear(const LinearArgs& args) {
  const int64_t outputs = args.transposed ? args.w.cols : args.features;
  const int64_t inner = args.transposed ? args.features : args.w.cols;
  for (int64_t b = 0; b < args.batch; ++b) {
    const int64_t first = args.row_begin + b * args.row_step;
    const int64_t matrix = args.w.matrices > 1 ? b : 0;
    for (int64_t o = 0; o < outputs; ++o) {
      std::vector<double> weights(inner);
      for (int64_t i = 0; i < inner; ++i) {
        weights[i] = args.transposed ? WeightAt(args.w, matrix, first + i, o) : WeightAt(args.w, matrix, first + o, i);
      }
      for (int64_t r = 0; r < args.rows; ++r) {
        const int64_t x = r * args.x_stride + b * args.x_batch;
        double sum = 0;
        for (int64_t i = 0; i < inner; ++i) sum += LoadAsFloat(args.x, args.x_dtype, x + i) * weights[i];
        if (args.bias != nullptr) sum += args.bias[o];
        Store(static_cast<float>(sum), args.out, args.out_dtype, r * args.out_stride + b * args.out_batch + o);
      }
    }
  }
}

void FillCache(const FillCacheArgs& args) {
  const int width = args.latent + 2 * args.rope.pairs;
  std::vector<float> row(width);
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* x = args.x + r * args.x_stride;
    const double factor = NormFactor(x, args.latent, args.eps);
    for (int i = 0; i < args.latent; ++i) row[i] = static_cast<float>(x[i] * factor * args.weight[i]);
    Rotate(args.rope, args.positions[r], x + args.latent, row.data() + args.latent);
    if (args.cache_dtype == DType::kF8E4M3) {
      const LatentRowLayout layout = {args.latent, 2 * args.rope.pairs};
      PackLatentRow(layout, row.data(), static_cast<std::byte*>(args.cache) + args.cache_rows[r] * layout.bytes());
      continue;
    }
    for (int i = 0; i < width; ++i) {
      Store(row[i], args.cache, args.cache_dtype, int64_t{args.cache_rows[r]} * width + i);
    }
  }
}

void RotateQueries(const RotateArgs& args) {
  const int width = args.latent + 2 * args.rope.pairs;
  const int rope = 2 * args.rope.pairs, query_width = args.nope + rope;
  std::vector<float> as_given(rope), rotated(rope);
  for (int64_t item = 0; item < args.rows * args.heads; ++item) {
    for (int i = 0; i < rope; ++i)
      as_given[i] = LoadAsFloat(args.query, args.dtype, item * query_width + args.nope + i);
    Rotate(args.rope, args.positions[item / args.heads], as_given.data(), rotated.data());
    for (int i = 0; i < rope; ++i) Store(rotated[i], args.out, args.dtype, item * width + args.latent + i);
  }
}

void Attend(const AttendArgs& args) {
  const int width = args.latent + args.rope;
  const LatentRowLayout layout = {args.latent, args.rope};
  for (int64_t item = 0; item < args.rows * args.heads; ++item) {
    const int64_t r = item / args.heads;
    const int64_t tokens = args.lengths[r];
    std::vector<double> weights(tokens);
    const auto cached = [&](int64_t token, int i) {
      const int64_t block = args.blocks[args.first_block[r] + token / args.block_tokens];
      const int64_t cache_row = block * args.block_tokens + token % args.block_tokens;
      const auto* const cache = static_cast<const std::byte*>(args.cache);
      return CachedValueAt(layout, args.cache_dtype, cache + cache_row * CachedRowBytes(layout, args.cache_dtype), i);
    };
    std::vector<double> query(width);
    for (int i = 0; i < width; ++i) query[i] = LoadAsFloat(args.query, args.dtype, item * width + i);
    double maximum = -HUGE_VAL, sum = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      double score = 0;
      for (int i = 0; i < width; ++i) score += query[i] * cached(t, i);
      weights[t] = score * args.scale;
      maximum = std::fmax(maximum, weights[t]);
    }
    for (double& weight : weights) sum += weight = std::exp(weight - maximum);
    for (int i = 0; i < args.latent; ++i) {
      double value = 0;
      for (int64_t t = 0; t < tokens; ++t) value += weights[t] * cached(t, i);
      Store(static_cast<float>(value / sum), args.out, args.dtype, item * args.latent + i);
    }
  }
}

void Ffn(const FfnArgs& args) {
  const int64_t hidden = args.gate_up.cols, intermediate = args.down.cols;
  std::vector<float> gate_up(args.rows * 2 * intermediate), activation(args.rows * intermediate);
  LinearArgs linear;
  linear.x = args.x;
  linear.x_dtype = args.x_dtype;
  linear.w = args.gate_up;
  linear.out = gate_up.data();
  linear.rows = args.rows;
  linear.batch = 2;
  linear.features = linear.out_batch = intermediate;
  linear.x_stride = hidden;
  linear.out_stride = 2 * intermediate;
  Linear(linear);
  for (int64_t i = 0; i < args.rows * intermediate; ++i) {
    const float* gate = &gate_up[i / intermediate * 2 * intermediate + i % intermediate];
    const double g = gate[0];
    activation[i] = static_cast<float>(g / (1.0 + std::exp(-g)) * gate[intermediate]);
  }
  linear = LinearArgs();
  linear.x = activation.data();
  linear.w = args.down;
  linear.out = args.out;
  linear.rows = args.rows;
  linear.features = linear.out_stride = hidden;
  linear.x_stride = intermediate;
  Linear(linear);
}

void DrawTokens(const DrawArgs& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    float* const x = args.x + row * args.cols;
    const TokenDraw& draw = args.draws[row];
    const bool finite = std::all_of(x, x + args.cols, [](float value) { return std::isfinite(value); });
    const bool told = finite && draw.top_logprobs >= 0;
    DrawnLogits logits;
    if (told) logits = TellLogits(x, args.cols, draw, args.words + draw.first_word);
    const std::vector<float> before(x, told ? x + args.cols : x);
    for (int32_t i = 0; i < draw.changes; ++i) {
      int32_t* const entry = args.tables + draw.first_change + 3 * i;
      const LogitChange change{entry[0], std::bit_cast<float>(entry[1]), entry[2]};
      if (told) entry[1] = std::bit_cast<int32_t>(x[change.id]);
      x[change.id] = token_draw::Changed(x[change.id], change, draw);
    }
    args.ids[row] = !finite ? -1 : draw.given >= 0 ? draw.given : DrawFrom(x, args.cols, draw);
    if (!told) continue;
    logits.drawn = before[args.ids[row]];
    std::memcpy(args.words + draw.first_word, &logits, sizeof(logits));
  }
}

void AddToResidual(const AddArgs& args) {
  for (int64_t i = 0; i < args.rows * args.cols; ++i) {
    args.acc[i] += args.y[i];
    if (std::isfinite(args.acc[i])) continue;
    int32_t& fault = args.fault_layer[i / args.cols];
    fault = std::min(fault, args.layer);
  }
}

void AddAndNormalise(const AddNormArgs& args) {
  AddToResidual(args.add);
  NormArgs norm;
  norm.x = args.add.acc;
  norm.weight = args.weight;
  norm.rows = args.add.rows;
  norm.cols = norm.x_stride = norm.out_stride = args.add.cols;
  norm.eps = args.eps;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    norm.out = dtype == DType::kF32 ? args.out : args.rounded;
    norm.out_dtype = dtype;
    if (norm.out == nullptr) continue;
    RmsNorm(norm);
    for (int64_t i = 0; i < norm.rows * norm.cols; ++i) {
      if (std::isfinite(LoadAsFloat(norm.out, dtype, i))) continue;
      int32_t& fault = args.add.fault_layer[i / norm.cols];
      fault = std::min(fault, args.add.layer);
    }
  }
}

void SelectExperts(const SelectArgs& args) {
  std::vector<float> scores(args.experts), choice(args.experts);
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* logits = args.logits + r * args.experts;
    const float largest = *std::max_element(logits, logits + args.experts);
    double sum = 0;
    for (int i = 0; i < args.experts; ++i) sum += std::exp(static_cast<double>(logits[i]) - largest);
    for (int i = 0; i < args.experts; ++i) {
      scores[i] = static_cast<float>(args.softmax ? std::exp(static_cast<double>(logits[i]) - largest) / sum
                                                  : 1.0 / (1.0 + std::exp(-static_cast<double>(logits[i]))));
      choice[i] = args.bias == nullptr ? scores[i] : scores[i] + args.bias[i];
    }
    if (args.by_groups && args.groups > args.groups_kept) DropGroups(args, choice);
    std::vector<int32_t> best = TopK(choice, args.top_k);
    std::sort(best.begin(), best.end());
    float chosen = 0;
    for (const int32_t expert : best) chosen += scores[expert];
    for (int k = 0; k < args.top_k; ++k) {
      args.experts_out[r * args.top_k + k] = best[k];
      args.weights_out[r * args.top_k + k] =
          scores[best[k]] / (args.normalise ? chosen + 1e-20f : 1.0f) * args.scaling;
    }
  }
}

void GatherRows(const GatherRowsArgs& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    std::memcpy(static_cast<std::byte*>(args.to) + row * args.row_bytes, args.from[row],
                static_cast<size_t>(args.row_bytes));
  }
}

void Combine(const CombineArgs& args) {
  if (args.from_zero) std::fill_n(args.acc, args.rows * args.cols, 0.0f);
  for (int64_t pair = 0; pair < args.rows * args.top_k; ++pair) {
    float* acc = args.acc + pair / args.top_k * args.cols;
    for (int64_t i = 0; i < args.cols; ++i) {
      acc[i] =
          std::fma(args.weights[pair], LoadAsFloat(args.expert_rows, args.row_dtype, pair * args.cols + i), acc[i]);
    }
  }
}

void RunExperts(const ExpertFfnArgs& args) {
  const int hidden = args.slots.hidden, intermediate = args.slots.intermediate;
  auto* const product = static_cast<float*>(args.workspace);  // [intermediate]
  for (int64_t pair = 0; pair < args.pairs; ++pair) {
    const int64_t slot = args.slot_of[args.pair_experts[pair]];
    const int64_t row = args.pair_rows == nullptr ? pair / args.top_k : args.pair_rows[pair];
    for (int i = 0; i < intermediate; ++i) {
      double gate = 0, up = 0;
      for (int j = 0; j < hidden; ++j) {
        const double x = LoadAsFloat(args.rows, args.row_dtype, row * hidden + j);
        gate += x * WeightAt(args.slots.gate_up, 2 * slot, i, j);
        up += x * WeightAt(args.slots.gate_up, 2 * slot + 1, i, j);
      }
      product[i] = static_cast<float>(gate / (1.0 + std::exp(-gate)) * up);
    }
    for (int j = 0; j < hidden; ++j) {
      double sum = 0;
      for (int i = 0; i < intermediate; ++i)
        sum += static_cast<double>(product[i]) * WeightAt(args.slots.down, slot, j, i);
      Store(static_cast<float>(sum), args.out, args.row_dtype, pair * hidden + j);
    }
  }
  if (!args.combined) return;
  CombineArgs combine = args.combine;
  combine.expert_rows = args.out;
  combine.row_dtype = args.row_dtype;
  Combine(combine);
}

}  // namespace conclave::host_ops
