#include "moe/checkpoint/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/checkpoint/make_model.h"
#include "moe/checkpoint/model_tensors.h"
#include "moe/checkpoint/test_files.h"
#include "moe/tensor/weight_view.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::string MakeTiny(const std::string& dtype) {
  MakeModelOptions options;
  options.preset = "tiny";
  options.dtype = dtype;
  options.out = test_files::MakeDirectory("model-" + dtype);
  EXPECT_TRUE(MakeModel(options, [](int64_t, int64_t) {}).ok());
  return options.out;
}

absl::Status Quantize(const std::string& model, const std::string& to, const std::string& out,
                      int64_t file_bytes_max = 4'000'000'000) {
  ThreadPool threads(2);
  QuantizeOptions options;
  options.model = model;
  options.to = to;
  options.out = out;
  options.file_bytes_max = file_bytes_max;
  return QuantizeModel(options, threads, [](int64_t, int64_t) {}, [] { return false; });
}

std::string FreshOut(const std::string& name) { return test_files::MakeDirectory("out-" + name) + "/model"; }

TEST(QuantizeTest, EveryMatrixOfEveryFormatIsNearItsSource) {
  for (const char* from : {"bf16", "fp8", "f32"}) {
    const std::string source = MakeTiny(from);
    for (const std::string to : {"int8", "int4", "fp8"}) {
      if (from == to) continue;
      const std::string out = FreshOut(absl::StrCat(from, to));
      const absl::Status status = Quantize(source, to, out, 200'000);
      ASSERT_TRUE(status.ok()) << status;
      const auto before = Checkpoint::Open(source), after = Checkpoint::Open(out);
      ASSERT_TRUE(after.ok()) << after.status();
      EXPECT_TRUE(fs::exists(out + "/model.safetensors.index.json"));
      // The worst error of a value: half a step of its block; INT4 may clip the largest to 7 of 9 steps.
      const double step = to == "int8" ? 0.6 / 127 : to == "int4" ? 2.1 / 9 : 1.01 / 16;
      ForEachTensor((*before)->spec(), [&](const TensorSpec& tensor) {
        if (tensor.shape.size() != 2 || tensor.mtp) return;
        const auto old = (*before)->Weight(tensor.name, tensor.shape[0], tensor.shape[1]);
        const auto now = (*after)->Weight(tensor.name, tensor.shape[0], tensor.shape[1]);
        ASSERT_TRUE(now.ok()) << now.status();
        if (!tensor.quantised()) {
          ASSERT_EQ(now->code, WeightCode::kPlain) << tensor.name;
          ASSERT_EQ(now->matrix.dtype, old->matrix.dtype) << tensor.name;
        }
        double largest = 0, worst = 0;
        for (int64_t row = 0; row < old->rows(); ++row) {
          for (int64_t col = 0; col < old->cols(); ++col) {
            const double value = double{StoredValue(*old, row, col)} * ScaleOf(*old, row, col);
            const double got = double{StoredValue(*now, row, col)} * ScaleOf(*now, row, col);
            largest = std::fmax(largest, std::abs(value));
            worst = std::fmax(worst, std::abs(value - got));
          }
        }
        EXPECT_LE(worst, tensor.quantised() ? step * largest : 0.0) << from << " to " << to << " " << tensor.name;
      });
    }
  }
}

TEST(QuantizeTest, KeepsTheConfigurationAndSaysHowItIsPacked) {
  const std::string source = MakeTiny("bf16"), out = FreshOut("config");
  ASSERT_TRUE(Quantize(source, "int4", out).ok());
  const std::string config = test_files::ReadAll(out + "/config.json");
  EXPECT_THAT(config, HasSubstr("pack-quantized"));
  EXPECT_THAT(config, HasSubstr("lm_head"));
  EXPECT_THAT(config, HasSubstr(R"(re:.*\\.mlp\\.gate$)"));
  const auto before = Checkpoint::Open(source), after = Checkpoint::Open(out);
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ((*after)->spec().packed_quant, (PackedQuantSpec{4, 32}));
  ModelSpec spec = (*after)->spec();
  spec.packed_quant = {};
  EXPECT_EQ(spec, (*before)->spec());
  EXPECT_TRUE(fs::exists(out + "/generation_config.json"));
}

absl::Status QuantizeWithHead(const std::string& model, const std::string& to, const std::string& out) {
  ThreadPool threads(2);
  QuantizeOptions options;
  options.model = model;
  options.to = to;
  options.head = true;
  options.out = out;
  return QuantizeModel(options, threads, [](int64_t, int64_t) {}, [] { return false; });
}

// The tiny model with one setting of config.json changed.
std::string MakeOdd(const std::string& name, const std::string& setting, int value, const std::string& dtype) {
  const std::string directory = test_files::MakeDirectory(name);
  std::string config = test_files::ReadAll(MakeTiny("bf16") + "/config.json");
  const auto at = config.find("\"" + setting + "\": ");
  EXPECT_NE(at, std::string::npos);
  config.replace(at, config.find(',', at) - at, absl::StrCat("\"", setting, "\": ", value));
  test_files::Write(directory + "/shape.json", config);
  MakeModelOptions options;
  options.config_file = directory + "/shape.json";
  options.dtype = dtype;
  options.out = directory + "/model";
  const absl::Status made = MakeModel(options, [](int64_t, int64_t) {});
  EXPECT_TRUE(made.ok()) << made;
  return options.out;
}

// Both are head [vocab, hidden]: every value of `now` is among the nearest that its code has, half a step away at most.
void ExpectNearest(const WeightView& old, const WeightView& now) {
  for (int64_t row = 0; row < old.rows(); ++row) {
    for (int64_t col = 0; col < old.cols(); ++col) {
      const float scale = ScaleOf(now, row, col), value = StoredValue(old, row, col) * ScaleOf(old, row, col);
      // e4m3 has four significant bits, and 2^-9 between subnormal numbers.
      const float half_step = now.code == WeightCode::kPlain ? std::fmax(0x1p-10f, std::abs(value / scale) / 16) : 0.5f;
      ASSERT_LE(std::abs(value - StoredValue(now, row, col) * scale), 1.01f * half_step * scale) << row << ", " << col;
    }
  }
}

TEST(QuantizeTest, TheHeadIsPackedWhereThatIsAskedFor) {
  const std::string source = MakeOdd("head", "vocab_size", 301, "bf16");
  const auto before = Checkpoint::Open(source);
  ASSERT_TRUE(before.ok()) << before.status();
  const ModelSpec& spec = (*before)->spec();
  const auto old = (*before)->Weight("lm_head.weight", spec.vocab, spec.hidden);
  for (const std::string to : {"int8", "fp8"}) {
    const std::string out = FreshOut("head-" + to);
    const absl::Status status = QuantizeWithHead(source, to, out);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_THAT(test_files::ReadAll(out + "/config.json"), testing::Not(HasSubstr("lm_head")));
    const auto after = Checkpoint::Open(out);
    ASSERT_TRUE(after.ok()) << after.status();
    const auto now = (*after)->Weight("lm_head.weight", spec.vocab, spec.hidden);
    ASSERT_TRUE(now.ok()) << now.status();
    EXPECT_EQ(now->code, to == "int8" ? WeightCode::kInt8 : WeightCode::kPlain);
    if (to == "fp8") {
      EXPECT_EQ(now->matrix.dtype, DType::kF8E4M3);
      EXPECT_EQ(now->scales.rows, 3);  // 301 rows in blocks of 128
    }
    ExpectNearest(*old, *now);
  }
}

TEST(QuantizeTest, OfAModelThatHasTheFormatTheHeadIsConvertedAlone) {
  const std::string source = MakeOdd("fp8-head", "vocab_size", 301, "fp8"), out = FreshOut("fp8-head");
  const absl::Status status = QuantizeWithHead(source, "fp8", out);
  ASSERT_TRUE(status.ok()) << status;
  const auto before = Checkpoint::Open(source), after = Checkpoint::Open(out);
  ASSERT_TRUE(after.ok()) << after.status();
  for (const std::string& name : (*before)->TensorNames()) {
    if (name == "lm_head.weight") continue;
    const auto old = (*before)->Tensor(name), now = (*after)->Tensor(name);
    ASSERT_TRUE(now.ok()) << now.status();
    ASSERT_EQ(now->dtype, old->dtype) << name;
    ASSERT_EQ(now->shape, old->shape) << name;
    EXPECT_EQ(std::memcmp(now->data, old->data, static_cast<size_t>(old->bytes)), 0) << name;
  }
  const ModelSpec& spec = (*before)->spec();
  ExpectNearest(*(*before)->Weight("lm_head.weight", spec.vocab, spec.hidden),
                *(*after)->Weight("lm_head.weight", spec.vocab, spec.hidden));
  EXPECT_THAT(std::string(QuantizeWithHead(out, "fp8", FreshOut("fp8-again")).message()), HasSubstr("already"));
}

TEST(QuantizeTest, MatricesWithoutWholeGroupsStayAsTheyAre) {
  const std::string source = MakeOdd("odd", "moe_intermediate_size", 40, "bf16");
  const std::string out = FreshOut("odd");
  ASSERT_TRUE(Quantize(source, "int4", out).ok());
  const auto checkpoint = Checkpoint::Open(out);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const int hidden = (*checkpoint)->spec().hidden;
  const int layer = (*checkpoint)->spec().dense_layers_first;
  const std::string expert = absl::StrCat("model.layers.", layer, ".mlp.experts.0.");
  EXPECT_EQ((*checkpoint)->Weight(expert + "down_proj.weight", hidden, 40)->code, WeightCode::kPlain);
  EXPECT_EQ((*checkpoint)->Weight(expert + "up_proj.weight", 40, hidden)->code, WeightCode::kInt4);
  EXPECT_THAT(test_files::ReadAll(out + "/config.json"), HasSubstr(expert + "down_proj"));
}

TEST(QuantizeTest, RefusesWhatItCannotDo) {
  const std::string source = MakeTiny("bf16"), out = FreshOut("refused");
  EXPECT_EQ(Quantize(source, "int2", out).code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(Quantize(source, "int8", out).ok());
  EXPECT_EQ(Quantize(source, "int4", out).code(), absl::StatusCode::kAlreadyExists);
  const absl::Status again = Quantize(out, "int8", FreshOut("again"));
  EXPECT_EQ(again.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(again.message()), HasSubstr("already"));
  EXPECT_EQ(Quantize(source + "/nothing", "int8", FreshOut("none")).code(), absl::StatusCode::kNotFound);
}

TEST(QuantizeTest, StoppedInADirectoryThatIsNotThereYetItLeavesNoneOfItsParents) {
  const std::string source = MakeTiny("bf16"), parent = test_files::MakeDirectory("parents");
  ThreadPool threads(1);
  QuantizeOptions options;
  options.model = source;
  options.to = "int8";
  options.out = parent + "/a/b/";
  EXPECT_EQ(QuantizeModel(options, threads, [](int64_t, int64_t) {}, [] { return true; }).code(),
            absl::StatusCode::kCancelled);
  EXPECT_TRUE(fs::is_empty(parent));
  EXPECT_TRUE(QuantizeModel(options, threads, [](int64_t, int64_t) {}, [] { return false; }).ok());
  EXPECT_TRUE(Checkpoint::Open(parent + "/a/b").ok());
}

TEST(QuantizeTest, StoppedHalfWayItLeavesNothing) {
  const std::string source = MakeTiny("bf16"), out = FreshOut("stopped");
  ThreadPool threads(1);
  QuantizeOptions options;
  options.model = source;
  options.to = "int8";
  options.out = out;
  int pieces = 0;
  const absl::Status status = QuantizeModel(
      options, threads, [&](int64_t, int64_t) { ++pieces; }, [&] { return pieces == 20; });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(pieces, 20);
  EXPECT_TRUE(fs::is_empty(fs::path(out).parent_path()));
}

}  // namespace
}  // namespace conclave
