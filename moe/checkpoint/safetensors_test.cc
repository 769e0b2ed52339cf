#include "moe/checkpoint/safetensors.h"

#include <unistd.h>

#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/checkpoint/safetensors_writer.h"
#include "moe/checkpoint/test_files.h"

namespace conclave {
namespace {

using testing::HasSubstr;

constexpr char kGood[] =
    R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
    R"("b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}})";

void ExpectDataLoss(absl::string_view json, int64_t data_bytes, const std::string& what) {
  const auto entries = ParseSafetensorsHeader(json, data_bytes);
  ASSERT_FALSE(entries.ok()) << json;
  EXPECT_EQ(entries.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(entries.status().message()), HasSubstr(what)) << json.substr(0, 300);
}

// One tensor "a" of 8 bytes with the given text in place of its fields.
std::string OneTensor(absl::string_view fields) { return absl::StrCat("{\"a\":{", fields, "}}"); }

TEST(SafetensorsHeader, ReadsEntriesInOffsetOrder) {
  const auto entries = ParseSafetensorsHeader(
      absl::StrCat(R"({"z":{"data_offsets":[8,8],"shape":[0,5],"dtype":"I64"},"__metadata__":{"format":"pt"},)",
                   R"("s":{"dtype":"F64","shape":[],"data_offsets":[0,8]}}   )"),
      8);
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 2u);
  EXPECT_EQ((*entries)[0].name, "s");
  EXPECT_TRUE((*entries)[0].shape.empty());
  EXPECT_EQ((*entries)[1].name, "z");
  EXPECT_EQ((*entries)[1].begin, 8);
}

TEST(SafetensorsHeader, RefusesBadOffsets) {
  ASSERT_TRUE(ParseSafetensorsHeader(kGood, 12).ok());
  ExpectDataLoss(kGood, 11, "past the 11 bytes");
  ExpectDataLoss(kGood, 13, "no tensor owns the 1 bytes from offset 12");
  const auto with = [](absl::string_view from, absl::string_view to) {
    return absl::StrReplaceAll(kGood, {{from, to}});
  };
  ExpectDataLoss(with("[8,12]", "[7,11]"), 12, "overlap");
  ExpectDataLoss(with("[8,12]", "[0,4]"), 12, "overlap");
  ExpectDataLoss(with("[8,12]", "[9,13]"), 13, "leave a hole from 8");
  ExpectDataLoss(with("[0,8]", "[1,8]"), 12, "leave a hole from 0");
  ExpectDataLoss(with("[8,12]", "[12,8]"), 12, "backwards");
  ExpectDataLoss(with("[8,12]", "[8,12,13]"), 12, "more than 2");
  ExpectDataLoss(with("[8,12]", "[8]"), 12, "two numbers");
  ExpectDataLoss(with("[8,12]", "[-8,12]"), 12, "-8");
  ExpectDataLoss(with("[8,12]", "[8,18446744073709551615]"), 12, "18446744073709551615");
  ExpectDataLoss(with("[8,12]", "[8,1e1]"), 12, "1e1");
  ExpectDataLoss(with("[8,12]", "\"8,12\""), 12, "a string");
}

TEST(SafetensorsHeader, RefusesShapesThatWrapOrDisagree) {
  const auto shaped = [](absl::string_view shape) {
    return OneTensor(absl::StrCat(R"("dtype":"F32","shape":)", shape, R"(,"data_offsets":[0,8])"));
  };
  ASSERT_TRUE(ParseSafetensorsHeader(shaped("[1,2]"), 8).ok());
  ExpectDataLoss(shaped("[3]"), 8, "need 12");
  ExpectDataLoss(shaped("[]"), 8, "need 4");
  ExpectDataLoss(shaped("[4294967296,4294967296,2]"), 8, "beyond 2^63");  // 2^65 elements: 0 modulo 2^64
  ExpectDataLoss(shaped("[4611686018427387906]"), 8, "beyond 2^63");      // times 4 is 8 modulo 2^64
  ExpectDataLoss(shaped("[9223372036854775808]"), 8, "9223372036854775808");
  ExpectDataLoss(shaped("[-2]"), 8, "-2");
  ExpectDataLoss(shaped("[2.0]"), 8, "2.0");
  ExpectDataLoss(shaped("[1,1,1,1,1,1,1,1,2]"), 8, "more than 8");
  ExpectDataLoss(shaped("[[2]]"), 8, "a list");
  ExpectDataLoss(shaped("2"), 8, "2");
}

TEST(SafetensorsHeader, RefusesUnknownAndMissingFields) {
  ExpectDataLoss(OneTensor(R"("dtype":"F31","shape":[2],"data_offsets":[0,8])"), 8, "unknown dtype \"F31\"");
  ExpectDataLoss(OneTensor(R"("dtype":7,"shape":[2],"data_offsets":[0,8])"), 8, "dtype");
  ExpectDataLoss(OneTensor(R"("shape":[2],"data_offsets":[0,8])"), 8, "no dtype");
  ExpectDataLoss(OneTensor(R"("dtype":"F32","data_offsets":[0,8])"), 8, "no shape");
  ExpectDataLoss(OneTensor(R"("dtype":"F32","shape":[2])"), 8, "no data_offsets");
  ExpectDataLoss(OneTensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1)"), 8, "\"more\"");
  ExpectDataLoss(OneTensor(R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])"), 8, "two of dtype");
  ExpectDataLoss(R"({"a":null})", 0, "null");
  ExpectDataLoss(R"({"a":[]})", 0, "a list");
  ExpectDataLoss(R"({"__metadata__":{"k":1}})", 0, "1");
  ExpectDataLoss(R"({"__metadata__":{"k":{}}})", 0, "an object");
}

TEST(SafetensorsHeader, RefusesDuplicateNames) {
  ExpectDataLoss(absl::StrReplaceAll(kGood, {{"\"b\"", "\"a\""}}), 12, "the name \"a\" stands twice");
  ExpectDataLoss(R"({"__metadata__":{},"__metadata__":{}})", 0, "twice");
  ExpectDataLoss(R"({"__metadata__":{"k":"1","k":"2"}})", 0, "twice");
}

TEST(SafetensorsHeader, RefusesWhatIsNotJson) {
  ExpectDataLoss("", 0, "does not begin with {");
  ExpectDataLoss(" {}", 0, "does not begin with {");
  ExpectDataLoss("\xef\xbb\xbf{}", 0, "does not begin with {");
  ExpectDataLoss("{", 0, "not valid JSON");
  ExpectDataLoss("{} {}", 0, "not valid JSON");
  ExpectDataLoss(absl::string_view("{}\0", 3), 0, "not valid JSON");
  ExpectDataLoss("{\"a\xff\":{}}", 0, "UTF-8");
  ExpectDataLoss("{\"\xc0\xaf\":{}}", 0, "UTF-8");          // an overlong form
  ExpectDataLoss("{\"\xed\xa0\x80\":{}}", 0, "UTF-8");      // a surrogate
  ExpectDataLoss(R"({"\ud800":{}})", 0, "not valid JSON");  // half a pair, escaped
}

TEST(SafetensorsHeader, DeepNestingNeitherPassesNorOverflowsTheStack) {
  const int64_t depth = 5'000'000;
  ExpectDataLoss("{\"a\":" + std::string(depth, '['), 0, "a list");
  std::string objects = "{";
  for (int i = 0; i < 1'000'000; ++i) objects += "\"a\":{";
  ExpectDataLoss(objects, 0, "");
}

TEST(SafetensorsHeader, LongNamesAreCutInMessages) {
  const auto entries = ParseSafetensorsHeader("{\"" + std::string(1'000'000, 'x') + "\":1}", 0);
  EXPECT_LT(entries.status().message().size(), 500u);
}

class SafetensorsFileTest : public testing::Test {
 protected:
  std::string WriteFile(absl::string_view bytes) {
    const std::string path = test_files::MakeDirectory("safetensors") + "/model.safetensors";
    test_files::Write(path, bytes);
    return path;
  }
  void ExpectRefused(absl::string_view bytes, const std::string& what) {
    const std::string path = WriteFile(bytes);
    const auto file = SafetensorsFile::Open(path);
    ASSERT_FALSE(file.ok());
    EXPECT_EQ(file.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(what));
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(path));
  }
};

TEST_F(SafetensorsFileTest, ReadsWhatTheWriterWrote) {
  const std::string path = WriteFile("");
  const float floats[6] = {1, 2, 3, 4, 5, 6};
  const uint8_t bytes[3] = {7, 8, 9};
  const int64_t ids[1] = {42};
  ASSERT_TRUE(WriteSafetensors(path, {{"u8 \"quoted\"\n", DType::kU8, {3}, bytes},
                                      {"f", DType::kF32, {2, 3}, floats},
                                      {"i", DType::kI64, {1}, ids},
                                      {"nothing", DType::kF32, {0, 7}, nullptr}})
                  .ok());
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ((*file)->tensors().size(), 4u);
  const SafetensorsTensor& f = (*file)->tensors().at("f");
  EXPECT_EQ(f.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(std::memcmp(f.data, floats, sizeof(floats)), 0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(f.data) % sizeof(float), 0u);
  EXPECT_EQ(std::memcmp((*file)->tensors().at("u8 \"quoted\"\n").data, bytes, 3), 0);
  EXPECT_EQ(LoadAsFloat((*file)->tensors().at("i").data, DType::kI64, 0), 42.0f);
  EXPECT_TRUE((*file)->CheckStillWhole().ok());
}

TEST_F(SafetensorsFileTest, RefusesTheFileItself) {
  ExpectRefused("", "0 bytes");
  ExpectRefused("1234567", "7 bytes");
  ExpectRefused(test_files::RawSafetensors("", ""), "does not begin with {");
  std::string bytes = test_files::RawSafetensors("{}", "");
  bytes[0] = 3;
  ExpectRefused(bytes, "past the end");
  bytes[7] = '\x7f';
  ExpectRefused(bytes, "beyond the format's limit of 100000000");
  bytes[7] = '\xff';
  ExpectRefused(bytes, "beyond the format's limit");
  ExpectRefused("GGUF" + std::string(100, '\3'), "beyond the format's limit");
  ExpectRefused(test_files::RawSafetensors(kGood, std::string(11, 'x')), "\"b\"");
  ExpectRefused(test_files::RawSafetensors(kGood, std::string(13, 'x')), "no tensor owns");
}

TEST_F(SafetensorsFileTest, AHeaderAtTheLimitOpensAndOneByteMoreDoesNot) {
  std::string json = "{}" + std::string(100'000'000 - 2, ' ');
  EXPECT_TRUE(SafetensorsFile::Open(WriteFile(test_files::RawSafetensors(json, ""))).ok());
  json += ' ';
  ExpectRefused(test_files::RawSafetensors(json, ""), "beyond the format's limit");
}

TEST_F(SafetensorsFileTest, TruncationAfterOpeningIsDataLoss) {
  const std::string path = WriteFile(test_files::RawSafetensors(
      R"({"a":{"dtype":"U8","shape":[100000],"data_offsets":[0,100000]}})", std::string(100000, 'x')));
  const auto file = SafetensorsFile::Open(path, MappedFile::Extent::kOnDemand);
  ASSERT_TRUE(file.ok());
  const SafetensorsTensor& tensor = (*file)->tensors().at("a");
  ASSERT_TRUE((*file)->Map(tensor).ok());
  EXPECT_EQ(static_cast<char>(tensor.data[99999]), 'x');
  ASSERT_EQ(truncate(path.c_str(), 5000), 0);
  EXPECT_EQ(static_cast<char>(tensor.data[99999]), 0);
  EXPECT_EQ((*file)->CheckStillWhole().code(), absl::StatusCode::kDataLoss);
}

TEST_F(SafetensorsFileTest, TheWriterRefusesDuplicatesAndLeavesNoPartialFile) {
  const std::string path = test_files::MakeDirectory("writer") + "/x.safetensors";
  EXPECT_EQ(WriteSafetensors(path, {{"a", DType::kU8, {0}, nullptr}, {"a", DType::kU8, {0}, nullptr}}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WriteSafetensors(path + "/no/such", {}).code(), absl::StatusCode::kNotFound);
  {
    auto writer = SafetensorsWriter::Create(path, {{"a", DType::kU8, {10}}});
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->Append("12345", 5).ok());
    EXPECT_EQ((*writer)->bytes_left(), 5);
    EXPECT_EQ(access((path + ".partial").c_str(), F_OK), 0);
  }
  EXPECT_NE(access((path + ".partial").c_str(), F_OK), 0);
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

}  // namespace
}  // namespace conclave
