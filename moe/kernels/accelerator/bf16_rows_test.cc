// Experts and dense products over bfloat16 weights on an accelerator against sums in double, and row by row against
// themselves: what stands beside a row changes none of its bits. On a machine with a GPU CONCLAVE_TEST_DEVICE=cuda runs
// it there, else the host accelerator computes. Inputs are new in every run; CONCLAVE_TEST_SEED repeats one.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "moe/kernels/accelerator/accelerator.h"
#include "moe/kernels/accelerator/accelerator_testing.h"
#include "moe/tensor/dtype.h"

namespace conclave {
namespace {

uint64_t Seed() {
  const char* const seed = std::getenv("CONCLAVE_TEST_SEED");
  return seed != nullptr ? std::strtoull(seed, nullptr, 10) : std::random_device{}();
}

// ‖got - want‖ / ‖want‖; infinite where anything is not a number.
double RelativeError(const std::vector<float>& got, const std::vector<double>& want) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return error <= norm ? std::sqrt(error / norm) : std::numeric_limits<double>::infinity();
}

class Bf16RowsTest : public testing::Test {
 protected:
  void SetUp() override {
    device_ = TestAccelerator(std::getenv("CONCLAVE_TEST_DEVICE"));
    ASSERT_NE(device_, nullptr);
    RecordProperty("seed", absl::StrCat(seed_));
  }
  void TearDown() override {
    for (void* memory : memory_) device_->Free(memory);
  }

  std::vector<uint16_t> Bf16(int64_t count, float scale) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<uint16_t> values(count);
    for (uint16_t& value : values) value = FloatToBf16(normal(random_));
    return values;
  }
  template <typename T>
  T* Upload(const std::vector<T>& values) {
    void* const memory = Memory(values.size() * sizeof(T));
    device_->CopyIn(memory, values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
    EXPECT_TRUE(device_->Synchronize().ok());
    return static_cast<T*>(memory);
  }
  void* Poisoned(int64_t bytes) { return Upload(std::vector<uint8_t>(bytes, 0xff)); }
  void* Memory(int64_t bytes) {
    const absl::StatusOr<void*> memory = device_->Allocate(bytes);
    EXPECT_TRUE(memory.ok()) << memory.status();
    memory_.push_back(*memory);
    return *memory;
  }
  DeviceWeight Weight(const std::vector<uint16_t>& values, int64_t matrices, int64_t rows, int64_t cols) {
    DeviceWeight weight;
    weight.data = Upload(values);
    weight.dtype = DType::kBF16;
    weight.matrices = matrices;
    weight.rows = rows;
    weight.cols = cols;
    return weight;
  }
  template <typename T>
  std::vector<T> Download(const void* memory, int64_t count) {
    std::vector<T> values(count);
    device_->CopyOut(values.data(), memory, count * static_cast<int64_t>(sizeof(T)));
    const absl::Status status = device_->Synchronize();
    EXPECT_TRUE(status.ok()) << status;
    return values;
  }

  const uint64_t seed_ = Seed();
  std::mt19937_64 random_{seed_};
  std::unique_ptr<Accelerator> device_;
  std::vector<void*> memory_;
};

struct Shape {
  const char* name;
  int hidden, intermediate, slots, top_k;
  int64_t rows;
};

class Bf16ExpertsTest : public Bf16RowsTest, public testing::WithParamInterface<Shape> {
 protected:
  void SetUp() override {
    Bf16RowsTest::SetUp();
    ASSERT_NE(device_, nullptr);
    const Shape& shape = GetParam();
    x_ = Bf16(shape.rows * shape.hidden, 1.0f);
    gate_up_ = Bf16(int64_t{2} * shape.slots * shape.intermediate * shape.hidden, 1.5f / std::sqrt(shape.hidden));
    down_ = Bf16(int64_t{1} * shape.slots * shape.hidden * shape.intermediate, 1.0f / std::sqrt(shape.intermediate));
    // The last slot but one gets no row, experts and slots have different numbers.
    for (int64_t pair = 0; pair < shape.rows * shape.top_k; ++pair) {
      int expert = static_cast<int>(random_() % (shape.slots - 1));
      pair_experts_.push_back(expert == shape.slots - 2 ? shape.slots - 1 : expert);
      weights_.push_back(static_cast<float>(random_() % 1000) / 1000.0f);
    }
    for (int slot = 0; slot < shape.slots; ++slot) slot_of_.push_back(shape.slots - 1 - slot);
    args_.compute = Compute::kBF16;
    args_.row_dtype = DType::kBF16;
    args_.experts = args_.slots.slots = shape.slots;
    args_.top_k = shape.top_k;
    args_.slots.hidden = shape.hidden;
    args_.slots.intermediate = shape.intermediate;
    args_.slots.gate_up = Weight(gate_up_, 2 * shape.slots, shape.intermediate, shape.hidden);
    args_.slots.down = Weight(down_, shape.slots, shape.hidden, shape.intermediate);
    args_.rows = Upload(x_);
    args_.slot_of = Upload(slot_of_);
    args_.out = Poisoned(shape.rows * shape.top_k * shape.hidden * 2);
    args_.workspace = Poisoned(
        device_->ExpertWorkspaceBytes(Compute::kBF16, shape.rows * shape.top_k, args_.slots));
  }

  // The results of the pairs [first, first + count), whose rows are x_rows[0], x_rows[1], …, or consecutive from
  // `first_row` on.
  std::vector<uint16_t> Run(int64_t first, int64_t count, int64_t first_row, const std::vector<int32_t>& x_rows) {
    ExpertFfnArgs args = args_;
    const auto chosen = pair_experts_.begin() + first;
    args.pair_experts = Upload(std::vector<int32_t>(chosen, chosen + count));
    args.pairs = count;
    args.rows = static_cast<const uint16_t*>(args_.rows) + first_row * args_.slots.hidden;
    if (!x_rows.empty()) args.pair_rows = Upload(x_rows);
    args.out = Poisoned(count * args_.slots.hidden * 2);
    device_->RunExperts(args);
    return Download<uint16_t>(args.out, count * args_.slots.hidden);
  }
  std::vector<uint16_t> RunAll() { return Run(0, static_cast<int64_t>(pair_experts_.size()), 0, {}); }

  // What a pair's row becomes, in double throughout.
  std::vector<double> Want(int64_t pair) const {
    const Shape& shape = GetParam();
    const int64_t slot = slot_of_[pair_experts_[pair]];
    const uint16_t* const x = x_.data() + pair / shape.top_k * shape.hidden;
    const auto dot = [&](const auto& of_x, const std::vector<uint16_t>& weights, int64_t row, int cols) {
      double sum = 0;
      for (int i = 0; i < cols; ++i) sum += of_x(i) * Bf16ToFloat(weights[row * cols + i]);
      return sum;
    };
    const auto input = [&](int i) { return double{Bf16ToFloat(x[i])}; };
    std::vector<double> activation(shape.intermediate), out(shape.hidden);
    for (int i = 0; i < shape.intermediate; ++i) {
      const double gate = dot(input, gate_up_, 2 * slot * shape.intermediate + i, shape.hidden);
      const double up = dot(input, gate_up_, (2 * slot + 1) * shape.intermediate + i, shape.hidden);
      activation[i] = gate / (1 + std::exp(-gate)) * up;
    }
    for (int i = 0; i < shape.hidden; ++i) {
      out[i] = dot([&](int j) { return activation[j]; }, down_, slot * shape.hidden + i, shape.intermediate);
    }
    return out;
  }

  std::vector<uint16_t> x_, gate_up_, down_;
  std::vector<int32_t> pair_experts_, slot_of_;
  std::vector<float> weights_;
  ExpertFfnArgs args_;
};

// The result is rounded to bfloat16 (1.7e-3), on tensor cores what lies between the products too: 2.4e-3 together.
TEST_P(Bf16ExpertsTest, RowsAreNearSumsInDouble) {
  const std::vector<uint16_t> got = RunAll();
  std::vector<float> values;
  std::vector<double> want;
  for (const uint16_t bits : got) values.push_back(Bf16ToFloat(bits));
  for (size_t pair = 0; pair < pair_experts_.size(); ++pair) {
    for (const double value : Want(static_cast<int64_t>(pair))) want.push_back(value);
  }
  EXPECT_LT(RelativeError(values, want), 3e-3) << "seed " << seed_;
}

TEST_P(Bf16ExpertsTest, ARowAloneHasTheBitsThatItHasAmongOthers) {
  const int64_t top_k = GetParam().top_k, width = top_k * GetParam().hidden;
  const std::vector<uint16_t> all = RunAll();
  for (int64_t row = 0; row < GetParam().rows; row += 7) {
    const std::vector<uint16_t> alone = Run(row * top_k, top_k, row, {});
    EXPECT_EQ(std::memcmp(alone.data(), all.data() + row * width, width * 2), 0) << "row " << row << ", seed " << seed_;
  }
}

TEST_P(Bf16ExpertsTest, RowsThatAreNamedOneByOneGiveTheSameBits) {
  std::vector<int32_t> x_rows;
  for (size_t pair = 0; pair < pair_experts_.size(); ++pair) {
    x_rows.push_back(static_cast<int32_t>(pair) / GetParam().top_k);
  }
  EXPECT_EQ(Run(0, static_cast<int64_t>(x_rows.size()), 0, x_rows), RunAll()) << "seed " << seed_;
}

TEST_P(Bf16ExpertsTest, CombiningAtOnceIsCombiningTheRows) {
  const Shape& shape = GetParam();
  const int64_t count = shape.rows * shape.hidden;
  std::vector<float> before(count);
  for (float& value : before) value = static_cast<float>(random_() % 1000) / 100.0f;
  CombineArgs combine;
  combine.row_dtype = DType::kBF16;
  combine.weights = Upload(weights_);
  combine.rows = shape.rows;
  combine.cols = shape.hidden;
  combine.top_k = shape.top_k;
  for (const bool from_zero : {false, true}) {
    combine.from_zero = from_zero;
    combine.acc = Upload(before);
    ExpertFfnArgs args = args_;
    args.pair_experts = Upload(pair_experts_);
    args.pairs = static_cast<int64_t>(pair_experts_.size());
    args.combined = true;
    args.combine = combine;
    device_->RunExperts(args);
    const std::vector<float> got = Download<float>(combine.acc, count);
    combine.expert_rows = Upload(RunAll());
    combine.acc = Upload(before);
    device_->Combine(combine);
    EXPECT_EQ(got, Download<float>(combine.acc, count)) << "from zero: " << from_zero << ", seed " << seed_;
  }
}

// The first two take the grouped kernels on a Hopper GPU, with few rows an expert and many; the last is no whole tile.
INSTANTIATE_TEST_SUITE_P(Shapes, Bf16ExpertsTest,
                         testing::Values(Shape{"FewRows", 512, 384, 5, 2, 9}, Shape{"ManyRows", 256, 128, 3, 2, 300},
                                         Shape{"Odd", 96, 40, 4, 2, 21}),
                         [](const auto& info) { return info.param.name; });

struct LinearShape {
  const char* name;
  int features, cols;
  DType x_dtype;
};

class Bf16LinearTest : public Bf16RowsTest, public testing::WithParamInterface<LinearShape> {
 protected:
  static constexpr int64_t kGap = 24;  // between rows of the output

  void SetUp() override {
    Bf16RowsTest::SetUp();
    ASSERT_NE(device_, nullptr);
    const LinearShape& shape = GetParam();
    // Plain loops take their time.
    rows_ = std::getenv("CONCLAVE_TEST_DEVICE") == nullptr ? 40 : 900;
    weights_ = Bf16(int64_t{shape.features} * shape.cols, 1.0f / std::sqrt(shape.cols));
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < rows_ * shape.cols; ++i) x_.push_back(normal(random_));
    args_.x_dtype = shape.x_dtype;
    if (shape.x_dtype == DType::kBF16) {
      std::vector<uint16_t> rounded;
      for (float& value : x_) {
        rounded.push_back(FloatToBf16(value));
        value = Bf16ToFloat(rounded.back());
      }
      args_.x = Upload(rounded);
    } else {
      args_.x = Upload(x_);
    }
    args_.w = Weight(weights_, 1, shape.features, shape.cols);
    args_.features = shape.features;
    args_.x_stride = shape.cols;
    args_.out_stride = shape.features + kGap;
    args_.precision = LinearPrecision::kSplit;
    DenseLimits limits;
    limits.precision = LinearPrecision::kSplit;
    limits.weight_dtype = DType::kBF16;
    limits.rows = rows_;
    limits.cols = limits.hidden = shape.cols;
    args_.workspace = Poisoned(device_->DenseWorkspaceBytes(limits));
  }

  // [rows, features + kGap].
  std::vector<float> Run(int64_t rows) {
    LinearArgs args = args_;
    args.rows = rows;
    args.out = Poisoned(rows * args.out_stride * int64_t{sizeof(float)});
    device_->Linear(args);
    return Download<float>(args.out, rows * args.out_stride);
  }

  int64_t rows_ = 0;
  std::vector<uint16_t> weights_;
  std::vector<float> x_;
  LinearArgs args_;
};

// Sixteen bits of an input are 4e-6 of it.
TEST_P(Bf16LinearTest, RowsAreNearSumsInDouble) {
  const LinearShape& shape = GetParam();
  const std::vector<float> all = Run(rows_);
  std::vector<float> got;
  std::vector<double> want;
  for (int64_t row = 0; row < rows_; row += 13) {
    for (int feature = 0; feature < shape.features; ++feature) {
      double sum = 0;
      for (int i = 0; i < shape.cols; ++i) {
        sum += double{x_[row * shape.cols + i]} * Bf16ToFloat(weights_[int64_t{feature} * shape.cols + i]);
      }
      want.push_back(sum);
      got.push_back(all[row * args_.out_stride + feature]);
    }
  }
  EXPECT_LT(RelativeError(got, want), 2e-5) << "seed " << seed_;
  for (int64_t row = 0; row < rows_; ++row) {
    for (int64_t i = shape.features; i < args_.out_stride; ++i) {
      ASSERT_TRUE(std::isnan(all[row * args_.out_stride + i])) << "wrote past row " << row;
    }
  }
}

TEST_P(Bf16LinearTest, ARowHasTheSameBitsWhateverTheNumberOfRows) {
  const std::vector<float> all = Run(rows_);
  for (const int64_t rows : {1, 7, 16, 32, 40, 64, 130, 300}) {
    if (rows > rows_) break;
    const std::vector<float> some = Run(rows);
    EXPECT_EQ(std::memcmp(some.data(), all.data(), some.size() * sizeof(float)), 0)
        << rows << " rows, seed " << seed_;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Bf16LinearTest,
                         testing::Values(LinearShape{"TwoTerms", 2500, 1280, DType::kF32},
                                         LinearShape{"TwoTermsOfFewBlocks", 1100, 384, DType::kF32},
                                         LinearShape{"OneTerm", 2500, 1280, DType::kBF16},
                                         LinearShape{"OddColumns", 333, 200, DType::kF32}),
                         [](const auto& info) { return info.param.name; });

// A feed-forward that both wgmma products take with many rows.
class Bf16FfnTest : public Bf16RowsTest {
 protected:
  static constexpr int kHidden = 256, kIntermediate = 384;

  void SetUp() override {
    Bf16RowsTest::SetUp();
    ASSERT_NE(device_, nullptr);
    rows_ = std::getenv("CONCLAVE_TEST_DEVICE") == nullptr ? 50 : 2100;
    gate_up_ = Bf16(int64_t{2} * kIntermediate * kHidden, 1.5f / std::sqrt(kHidden));
    down_ = Bf16(int64_t{kHidden} * kIntermediate, 1.0f / std::sqrt(kIntermediate));
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < rows_ * kHidden; ++i) x_.push_back(normal(random_));
    args_.x = Upload(x_);
    args_.gate_up = Weight(gate_up_, 2, kIntermediate, kHidden);
    args_.down = Weight(down_, 1, kHidden, kIntermediate);
    args_.precision = LinearPrecision::kSplit;
    DenseLimits limits;
    limits.precision = LinearPrecision::kSplit;
    limits.weight_dtype = DType::kBF16;
    limits.rows = rows_;
    limits.hidden = kHidden;
    limits.intermediate = kIntermediate;
    args_.workspace = Poisoned(device_->DenseWorkspaceBytes(limits));
  }

  std::vector<float> Run(int64_t rows) {
    FfnArgs args = args_;
    args.rows = rows;
    args.out = static_cast<float*>(Poisoned(rows * kHidden * int64_t{sizeof(float)}));
    device_->Ffn(args);
    return Download<float>(args.out, rows * kHidden);
  }

  double Dot(const double* x, const std::vector<uint16_t>& weights, int64_t row, int cols) const {
    double sum = 0;
    for (int i = 0; i < cols; ++i) sum += x[i] * Bf16ToFloat(weights[row * cols + i]);
    return sum;
  }

  int64_t rows_ = 0;
  std::vector<uint16_t> gate_up_, down_;
  std::vector<float> x_;
  FfnArgs args_;
};

TEST_F(Bf16FfnTest, RowsAreNearSumsInDouble) {
  const std::vector<float> all = Run(rows_);
  std::vector<float> got;
  std::vector<double> want;
  for (int64_t row = 0; row < rows_; row += 13) {
    const std::vector<double> x(x_.begin() + row * kHidden, x_.begin() + (row + 1) * kHidden);
    std::vector<double> activation(kIntermediate);
    for (int i = 0; i < kIntermediate; ++i) {
      const double gate = Dot(x.data(), gate_up_, i, kHidden), up = Dot(x.data(), gate_up_, kIntermediate + i, kHidden);
      activation[i] = gate / (1 + std::exp(-gate)) * up;
    }
    for (int i = 0; i < kHidden; ++i) {
      want.push_back(Dot(activation.data(), down_, i, kIntermediate));
      got.push_back(all[row * kHidden + i]);
    }
  }
  EXPECT_LT(RelativeError(got, want), 2e-5) << "seed " << seed_;
}

TEST_F(Bf16FfnTest, ARowHasTheSameBitsWhateverTheNumberOfRows) {
  const std::vector<float> all = Run(rows_);
  for (const int64_t rows : {1, 7, 16, 32, 40, 300, 1400}) {
    if (rows > rows_) break;
    const std::vector<float> some = Run(rows);
    EXPECT_EQ(std::memcmp(some.data(), all.data(), some.size() * sizeof(float)), 0)
        << rows << " rows, seed " << seed_;
  }
}

}  // namespace
}  // namespace conclave
