// Packed INT4 and INT8 matrices: read as the format says, and refused by name where a part is not what it must be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/checkpoint/make_model.h"
#include "moe/checkpoint/quantize.h"
#include "moe/checkpoint/safetensors.h"
#include "moe/checkpoint/safetensors_writer.h"
#include "moe/checkpoint/test_files.h"
#include "moe/tensor/weight_view.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

constexpr char kDown[] = "model.layers.1.mlp.experts.3.down_proj.weight";  // [64, 32]

std::string MakePacked(const std::string& to) {
  const std::string directory = test_files::MakeDirectory("packed");
  MakeModelOptions made;
  made.preset = "tiny";
  made.out = directory + "/plain";
  EXPECT_TRUE(MakeModel(made, [](int64_t, int64_t) {}).ok());
  ThreadPool threads(1);
  QuantizeOptions options;
  options.model = made.out;
  options.to = to;
  options.out = directory + "/packed";
  const absl::Status status = QuantizeModel(options, threads, [](int64_t, int64_t) {}, [] { return false; });
  EXPECT_TRUE(status.ok()) << status;
  return options.out;
}

// Writes the weights again, after `change` had its way with the arrays.
using Arrays = std::map<std::string, SafetensorsArray>;
void Rewrite(const std::string& directory, const std::function<void(Arrays&)>& change) {
  const std::string path = directory + "/model.safetensors";
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  Arrays arrays;
  for (const auto& [name, tensor] : (*file)->tensors()) arrays[name] = {name, tensor.dtype, tensor.shape, tensor.data};
  change(arrays);
  std::vector<SafetensorsArray> list;
  for (const auto& [name, array] : arrays) list.push_back(array);
  ASSERT_TRUE(WriteSafetensors(path, list).ok());
}

void ExpectRefused(const std::string& directory, absl::StatusCode code, const std::vector<std::string>& words) {
  const auto checkpoint = Checkpoint::Open(directory);
  const absl::Status status = checkpoint.ok() ? (*checkpoint)->Weight(kDown, 64, 32).status() : checkpoint.status();
  EXPECT_EQ(status.code(), code) << status;
  for (const std::string& word : words) EXPECT_THAT(std::string(status.message()), HasSubstr(word));
}

const std::string kPacked = absl::StrCat(kDown, "_packed");
const std::string kScale = absl::StrCat(kDown, "_scale");
const std::string kShape = absl::StrCat(kDown, "_shape");

TEST(PackedWeightTest, WordsHoldElementsFromTheLowestBitsOn) {
  for (const std::string to : {"int4", "int8"}) {
    const std::string directory = MakePacked(to);
    const int bits = to == "int4" ? 4 : 8;
    std::vector<uint32_t> words(64 * 32 * bits / 32, 0);
    words[1] = bits == 4 ? 0xfedcba98u : 0xff807f01u;
    Rewrite(directory, [&](Arrays& arrays) { arrays[kPacked].data = words.data(); });
    const auto checkpoint = Checkpoint::Open(directory);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const auto weight = (*checkpoint)->Weight(kDown, 64, 32);
    ASSERT_TRUE(weight.ok()) << weight.status();
    EXPECT_EQ(weight->cols(), 32);
    EXPECT_EQ(weight->block_cols, 32);
    const std::vector<float> want = bits == 4 ? std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7}
                                              : std::vector<float>{-127, -1, 0, 127};
    for (size_t i = 0; i < want.size(); ++i) EXPECT_EQ(StoredValue(*weight, 0, want.size() + i), want[i]) << i;
    EXPECT_EQ(StoredValue(*weight, 0, 0), bits == 4 ? -8 : -128);
  }
}

TEST(PackedWeightTest, TheShapeMayBe64BitsWide) {
  const std::string directory = MakePacked("int4");
  const int64_t shape[2] = {64, 32};
  Rewrite(directory, [&](Arrays& arrays) { arrays[kShape] = {kShape, DType::kI64, {2}, shape}; });
  EXPECT_TRUE((*Checkpoint::Open(directory))->Weight(kDown, 64, 32).ok());
}

TEST(PackedWeightTest, PartsThatAreMissingOrOfAnotherShapeOrDtypeAreNamed) {
  const std::vector<uint8_t> bytes(1 << 16, 0);
  const int32_t other_shape[2] = {32, 64};
  const auto refused = [&](const std::function<void(Arrays&)>& change, absl::StatusCode code,
                           const std::vector<std::string>& words) {
    const std::string directory = MakePacked("int4");
    Rewrite(directory, change);
    ExpectRefused(directory, code, words);
  };
  const auto lost = absl::StatusCode::kDataLoss;
  refused([&](Arrays& arrays) { arrays.erase(kPacked); }, absl::StatusCode::kNotFound, {kDown});
  refused([&](Arrays& arrays) { arrays.erase(kScale); }, absl::StatusCode::kNotFound, {kScale});
  refused([&](Arrays& arrays) { arrays.erase(kShape); }, absl::StatusCode::kNotFound, {kShape});
  refused([&](Arrays& arrays) { arrays[kPacked].shape = {32, 8}; }, lost, {kPacked, "[32, 8]", "[64, 4]"});
  refused([&](Arrays& arrays) { arrays[kPacked].dtype = DType::kF32; }, lost, {kPacked, "F32", "I32"});
  refused([&](Arrays& arrays) { arrays[kScale] = {kScale, DType::kBF16, {64, 2}, bytes.data()}; }, lost,
          {kScale, "[64, 1]"});
  refused([&](Arrays& arrays) { arrays[kScale] = {kScale, DType::kF16, {64, 1}, bytes.data()}; }, lost,
          {kScale, "F16", "BF16 or F32"});
  refused([&](Arrays& arrays) { arrays[kShape] = {kShape, DType::kI32, {3}, bytes.data()}; }, lost, {kShape, "[3]"});
  refused([&](Arrays& arrays) { arrays[kShape] = {kShape, DType::kF32, {2}, bytes.data()}; }, lost, {kShape, "I64"});
  refused([&](Arrays& arrays) { arrays[kShape].data = other_shape; }, lost, {kShape, "[32, 64]", "[64, 32]"});
}

TEST(PackedWeightTest, WithoutAConfigurationThatSaysHowTheyAreRefused) {
  const std::string directory = MakePacked("int4"), path = directory + "/config.json";
  test_files::Write(path, absl::StrReplaceAll(test_files::ReadAll(path), {{"quantization_config", "other_config"}}));
  ExpectRefused(directory, absl::StatusCode::kDataLoss, {"is packed", "quantization_config"});
}

TEST(PackedWeightTest, BitsThatContradictTheShapesAreRefused) {
  const std::string directory = MakePacked("int4"), path = directory + "/config.json";
  test_files::Write(path, absl::StrReplaceAll(test_files::ReadAll(path), {{"\"num_bits\": 4", "\"num_bits\": 8"}}));
  ExpectRefused(directory, absl::StatusCode::kDataLoss, {"_packed", "has shape"});
}

}  // namespace
}  // namespace conclave
