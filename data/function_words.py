"""The frequent words by which languages of one script are told apart.

Words of one Latin letter are left out: in code they are variables. So are keywords and modules of programming languages
("var", "do", "os", "no", "to").
"""

# ruff: noqa: RUF001  (letters of other scripts look like Latin ones)

from __future__ import annotations

# script -> language -> words. The first language of a script is taken if a text has none of the words. "none" holds
# words of languages without a stemmer: Vietnamese; Ukrainian and Bulgarian; Urdu; Marathi; Hebrew.
FUNCTION_WORDS: dict[str, dict[str, str]] = {
    "LATIN": {
        "english": (
            "the of and to in is that for it with as was on are be by this from which not have at or an what how"
        ),
        "german": (
            "der die und das den von zu mit sich des auf für ist im dem nicht ein eine als auch es werden "
            "aus wie dass sie wird bei einer einem einen über sind"
        ),
        "dutch": (
            "de het een van en in is dat op te zijn met voor niet aan er om ook als bij door naar wordt worden hoe wat"
        ),
        "french": (
            "le la les de des et en un une est que du dans qui pour pas sur au par plus avec ce il sont aux "
            "cette comment"
        ),
        "spanish": "el la los las de que en un una por con para del es al lo como más su pero sus este son cómo qué",
        "portuguese": "de que em um uma para com não por mais dos das ao como mas foi na da são pelo pela seu sua ou",
        "italian": "di che il la un una per non del della con sono le dei da come più nel alla gli si questo anche",
        "catalan": "el la els les de que en un una per amb del és al dels com més però són aquest aquesta quin",
        "romanian": "de la în și cu pe din este un nu care pentru mai sunt ce au fost prin sau cum lui",
        "swedish": "och att det som en är av för med till den på inte ett om har från kan jag vid hur vad",
        "norwegian": "og det som en er av for med til på ikke et om har fra kan jeg ved hvordan hva etter også blir",
        "danish": (
            "og at det som en er af for med til på ikke et om har fra kan jeg ved hvordan hvad efter også bliver"
        ),
        "finnish": "on ja ei se että oli hän mutta joka ovat kun myös kuin tai niin sen ole voi mitä miten",
        "hungarian": "az és egy hogy nem is ez azt van meg csak már volt mint vagy de ki kell hogyan milyen",
        "estonian": "on ja ei et see oli ta kui ka mis või ning oma siis aga kuidas selle seda",
        "polish": "nie się na jest że jak co od za po tak dla oraz przez ale czy tym był są który",
        "czech": "se na je že jako ale pro by jsou tak jak který které při nebo byl po od pod aby než",
        "lithuanian": "ir yra kad tai bet su ne iš kaip kai ar jo buvo už dėl apie prie kas nuo",
        "turkish": "ve bir bu için ile da de çok ne daha gibi olarak olan en ama değil var nasıl her kadar",
        "indonesian": (
            "yang dan di dari untuk dengan ini itu pada adalah ke tidak dalam akan oleh juga sebagai bagaimana"
        ),
        "basque": "eta da bat ez du ere zen dira izan baina egin hau zer dute den nola",
        "irish": "an na ar agus is bhí sé go sí leis tá ag le don níl atá mar seo",
        "none": "của và là không được cho các một những trong với người có này đã để như khi",
    },
    "CYRILLIC": {
        "russian": "и в не на что с по как это к из от для он но за так же был или его все при чтобы есть где",
        "serbian": "је у и на се да за од су са као али то ово није који што",
        "none": "і що та це не як для або від є він із зі які й се са съм като във със което ще бъде",
    },
    "ARABIC": {
        "arabic": "في من على إلى أن هذا هذه التي الذي عن مع كان لا ما هو هي أو كيف كل بين",
        "persian": "و در به از که این را با است برای آن یک می تا شد های بر چه چگونه",
        "none": "کے میں ہے کی سے کا اور کو پر نے ہیں یہ کہ ایک",
    },
    "DEVANAGARI": {
        "hindi": "है के में की का से को और पर हैं यह एक ने कि लिए भी नहीं कैसे क्या जो इस",
        "nepali": "छ छन् को मा ले हरु हरू र लाई गर्न भएको हो पनि गरेको तथा कसरी",
        "none": "आहे आणि हे होते ते या ला च्या मध्ये आहेत कसे काय",
    },
    "HEBREW": {
        "none": "של את על לא הוא זה עם כל היא גם או אם איך",
        "yiddish": "און די איז פון צו אין דער נישט אַז מיט האט דאָס דאס",
    },
}
